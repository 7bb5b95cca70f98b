"""What happens to every /v1 request before it is routed: the token is read and verified, the request is counted."""

from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import credentials
from api.context import Context, begin, complete, request_headers
from api.parts import Parts
from api.v1 import express
from commands.errors import FollowsError

_JSON: Final = (b"content-type", b"application/json")
# As nearly everybody writes it; whatever else means the same is read with more care.
_BEARER: Final = b"Bearer "
# Nobody handles it.
_NO_METHOD: Final = "TRACE"
_OF_BODY: Final = (b"content-type", b"content-length")


def is_v1(path: str) -> bool:
    """Whether a path is this dialect's; the router passes over doubled slashes, so the gate has to as well."""
    return path.lstrip("/").partition("/")[0] == "v1"


def gate(app: ASGIApp, parts: Parts) -> ASGIApp:
    """Wrap the application; every answer gets the request id and the X-RateLimit headers."""

    async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
        sent = request_headers(scope)
        token, problem = _token(sent.get(b"authorization"))
        method = scope["method"]  # type: ignore[typeddict-item]
        reads = method == "GET"
        context = await begin(parts, scope, sent, token, problem, reads=reads)  # type: ignore[arg-type]
        answer = None
        if reads and context.caller is not None:
            answer = await express.read(parts, scope, context.caller)
        await complete(parts, context, answer.position if answer is not None else -1)
        if not reads and context.caller is not None and context.refusal is None:
            answer = await express.command(parts, scope, context)
        extra = [(name.lower().encode(), value.encode()) for name, value in context.headers().items()]
        if answer is not None and (not reads or _may_go_out(context, answer)):
            await _send(send, answer, extra)
            return
        own = {name for name, _ in extra}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*(pair for pair in message["headers"] if pair[0].lower() not in own), *extra]
            await send(message)

        if method == "OPTIONS":
            await app({**scope, "method": _NO_METHOD}, receive, _as_options(send_with_headers))  # type: ignore[arg-type]
            return
        await app(scope, receive, send_with_headers)

    return admitted


def _as_options(send: Send) -> Send:
    """Turn the router's 405, which names all methods of a path, into the answer to OPTIONS; the framework's own names
    those of the first handler only."""
    is_405 = False

    async def turned(message: Message) -> None:
        nonlocal is_405
        if message["type"] == "http.response.start" and message["status"] == 405:
            is_405 = True
            message["status"] = 204
            message["headers"] = [pair for pair in message["headers"] if pair[0].lower() not in _OF_BODY]
        elif message["type"] == "http.response.body" and is_405:
            message["body"] = b""
        await send(message)

    return turned


def _may_go_out(context: Context, answer: express.Answer) -> bool:
    """Whether what was read while the caller was being counted is his to see, and fresh enough for him."""
    return context.refusal is None and context.holds(answer.position)


async def _send(send: Send, answer: express.Answer, extra: list[tuple[bytes, bytes]]) -> None:
    headers = [*answer.headers, *extra]
    if answer.status != 204:
        headers += [_JSON, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


def _token(header: bytes | None) -> tuple[str | bytes | None, FollowsError | None]:
    if header is None:
        return None, None
    if header.startswith(_BEARER) and header.find(b" ", len(_BEARER)) < 0:
        return header[len(_BEARER) :], None
    try:
        return credentials(header.decode("latin-1")), None
    except FollowsError as error:
        return None, error
