"""What happens to every /v1 request: the token is read, the pipeline runs, and the router gets all but hot calls."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any, Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.auth.tokens import token_from_header
from api.context import Context, request_headers
from api.cors import is_preflight
from api.one_reading import already_read, may_have_body, read_whole_body, two_readings
from api.pipeline import begin, respond
from api.reply import RawHeaders, Reply, raw_headers, without_headers
from api.request_counts import OTHER_OPERATION, note_request, routed_operation
from api.request_id import REQUEST_ID_HEADER, begin_request
from api.services import Services
from api.shutdown import closing_after_chunks
from api.v1.errors import answer_v1_error
from api.v1.follows import PER_PAGE, PER_PAGE_MAX, FollowCall, follow, follow_status, followers, following, unfollow
from commands.errors import FollowsError

# Skipping the router saves two thirds of the time of these.
HOT_CALLS: Final[dict[tuple[str, str], Callable[[FollowCall], Awaitable[Reply]]]] = {
    ("POST", "follow"): follow,
    ("DELETE", "follow"): unfollow,
    ("GET", "follow-status"): follow_status,
    ("GET", "followers"): followers,
    ("GET", "following"): following,
}
_OPERATIONS: Final = {call: f"{method} /v1/users/{{user_id}}/{name}" for (method, name), call in HOT_CALLS.items()}
_JSON: Final = (b"content-type", b"application/json")
# As nearly every client writes it; whatever else means the same is read with more care.
_BEARER: Final = b"Bearer "
# The router reads longer ones, and says what is wrong with others.
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,8}")
# No route has it.
_NO_METHOD: Final = "TRACE"
_OF_BODY: Final = {b"content-type", b"content-length"}


def is_v1(path: str) -> bool:
    """Return whether a path is this dialect's. The router passes over doubled slashes, so this has to as well."""
    return path.lstrip("/").partition("/")[0] == "v1"


def v1_middleware(app: ASGIApp, services: Services, body_max: int) -> ASGIApp:
    """Wrap the application; every answer gets the request id, the X-RateLimit headers, and those for caches and CORS.

    ``body_max`` in bytes.
    """

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        http: dict[str, Any] = scope  # type: ignore[assignment]
        headers = request_headers(scope)
        shared = services.cors.headers(headers)
        if is_preflight(http["method"], headers) and two_readings(http, headers) is None:
            await _send_preflight(send, services.cors.preflight(headers), begin_request(headers))
            note_request("v1", OTHER_OPERATION, 204, began)
            return
        token, problem = _token(headers.get(b"authorization"))
        reads = http["method"] == "GET"
        context = await begin(services, http, headers, token, problem, reads=reads)
        call = find_v1_call(services, context, http)
        if call is None and may_have_body(headers):
            send = closing_after_chunks(headers, send)
            # The route of a PUT reads its body itself, once it knows that the caller may send one.
            if http["method"] != "PUT" and context.refusal is None and context.caller is not None:
                receive = await _whole(receive, context, body_max)
        reply = await respond(services, context, call, answer_v1_error, reads=reads)
        if reply is not None:
            await _send(send, reply, context, shared)
            note_request("v1", OTHER_OPERATION if call is None else _OPERATIONS[call.func], reply.status, began)
            return
        if http["method"] == "OPTIONS":
            routed: Any = {**http, "method": _NO_METHOD}
            await app(routed, receive, _as_options(_with_headers(send, context, shared)))
        else:
            await app(scope, receive, _with_headers(send, context, shared))
        note_request("v1", routed_operation(http), context.status, began)

    return handle


def find_v1_call(services: Services, context: Context, scope: dict[str, Any]) -> partial[Awaitable[Reply]] | None:
    """Return the hot call that a plain request is for; None for all others, which the router reads."""
    match scope["path"].split("/"):
        case ["", "v1", "users", user_id, name] if user_id:
            function = HOT_CALLS.get((scope["method"], name))
        case _:
            return None
    page = _plain_page(query) if (query := scope["query_string"]) else (1, PER_PAGE)
    if function is None or page is None or may_have_body(context.request_headers):
        return None
    return partial(function, FollowCall(services, context, user_id, *page))


def _plain_page(query: bytes) -> tuple[int, int] | None:
    """Read (page, rows per page); None for anything but the plain form."""
    asked: dict[bytes, int] = {}
    for name, _, text in [part.partition(b"=") for part in query.split(b"&")]:
        if name in asked or name not in (b"page", b"per_page") or _NUMBER.fullmatch(text) is None:
            return None
        asked[name] = int(text)
    return asked.get(b"page", 1), min(asked.get(b"per_page", PER_PAGE), PER_PAGE_MAX)


async def _whole(receive: Receive, context: Context, body_max: int) -> Receive:
    """Read the body before the call: nothing may be done for a request that turns out to have none or a broken one."""
    try:
        return already_read(await read_whole_body(receive, body_max))
    except FollowsError as error:
        context.refusal = error
        return receive


async def _send_preflight(send: Send, headers: RawHeaders, request_id: str) -> None:
    headers = [*headers, (REQUEST_ID_HEADER, request_id.encode())]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, reply: Reply, context: Context, shared: RawHeaders) -> None:
    headers = context.answer_headers()
    headers += shared
    if reply.headers and reply.status != 429:  # the Retry-After of a 429 is among the context's headers
        headers += raw_headers(reply.headers)
    if reply.status != 204:
        headers += [_JSON, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


def _with_headers(send: Send, context: Context, shared: RawHeaders) -> Send:
    """Wrap a request's ``send``: the answer carries the context's headers, in place of any that it has."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.status = message["status"]
            own = context.answer_headers() + shared
            names = {name for name, _ in own}
            message["headers"] = [*without_headers(message["headers"], names), *own]
        await send(message)

    return with_headers


def _as_options(send: Send) -> Send:
    """Turn the router's 405, which names all methods of a path, into the answer to OPTIONS; the framework's own names
    those of the first handler only."""
    is_405 = False

    async def as_options(message: Message) -> None:
        nonlocal is_405
        if message["type"] == "http.response.start" and message["status"] == 405:
            is_405 = True
            message["status"] = 204
            message["headers"] = without_headers(message["headers"], _OF_BODY)
        elif message["type"] == "http.response.body" and is_405:
            message["body"] = b""
        await send(message)

    return as_options


def _token(header: bytes | None) -> tuple[str | bytes | None, FollowsError | None]:
    """Return the token of an Authorization header, or what is wrong with it."""
    if header is None:
        return None, None
    if header.startswith(_BEARER) and header.find(b" ", len(_BEARER)) < 0:
        return header[len(_BEARER) :], None
    try:
        return token_from_header(header.decode("latin-1")), None
    except FollowsError as error:
        return None, error
