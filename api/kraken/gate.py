"""What happens to every /kraken request around its handler: leniency, CORS, the token, the count, JSON-P and ETags."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.context import begin, complete, request_headers
from api.kraken.asked import Asked, fields_of, plain_path, put_asked, put_query, query_of, read_body, token_of
from api.kraken.callers import may_be_served
from api.kraken.express import express
from api.kraken.jsonp import callback_of, script
from api.kraken.links import LinkSettings, base_of
from api.parts import Parts
from api.request_ids import HEADER, begin_request
from commands.errors import FollowsError

Headers = list[tuple[bytes, bytes]]

_EVERYWHERE: Final[Headers] = [
    (b"x-api-version", b"3"),
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"ETag, Link, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, x-api-version",
    ),
    # Answers are of one caller and of now: a cache may keep one only to ask whether it still holds.
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Authorization"),
    (b"x-content-type-options", b"nosniff"),
]
_JSON: Final = (b"content-type", b"application/json")
_PREFLIGHT: Final[Headers] = [
    *_EVERYWHERE,
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (
        b"access-control-allow-headers",
        b"Accept, Authorization, Client-ID, Content-Type, If-None-Match, Idempotency-Key",
    ),
    (b"access-control-max-age", b"86400"),  # a day: nothing of this depends on the request
]


class _Asking(msgspec.Struct):
    """How the answer has to be finished: as a script, or compared with what the client has."""

    callback: str | None = None
    known: bytes | None = None
    extra: Headers = msgspec.field(default_factory=list)


def gate(app: ASGIApp, parts: Parts, body_max: int) -> ASGIApp:
    """Wrap the application; ``body_max`` in bytes."""
    settings = LinkSettings.from_env()

    async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
        inside: dict[str, Any] = {**scope, "path": plain_path(scope["path"])}
        sent = request_headers(inside)
        if inside["method"] == "OPTIONS":
            await _send(send, 204, [*_PREFLIGHT, (HEADER, begin_request(sent).encode())], b"")
            return
        query, platform = query_of(inside)
        asked = Asked(base_of(inside, sent, settings), bool(platform.get("client_id") or sent.get(b"client-id")), {})
        put_asked(inside, asked)
        asking, token, problem = await _read(inside, receive, sent, platform, asked, body_max)
        reads = inside["method"] == "GET"
        context = await begin(parts, inside, sent, token, problem, reads=reads)
        answer = await express(parts, inside, asked.base, query) if reads else None
        await complete(parts, context, answer.position if answer is not None else -1)
        asking.extra = [(name.lower().encode(), value.encode()) for name, value in context.headers().items()]
        if answer is not None and may_be_served(context) and context.holds(answer.position):
            headers = [_JSON, *[(name.lower().encode(), text.encode()) for name, text in answer.headers.items()]]
            await _send(send, *_finished(asking, 200, headers, answer.body))
            return
        put_query(inside, query)
        await app(inside, receive, _finishing(send, asking))  # type: ignore[arg-type]

    return admitted


async def _read(
    scope: dict[str, Any],
    receive: Receive,
    sent: Mapping[bytes, bytes],
    platform: Mapping[str, str],
    asked: Asked,
    body_max: int,
) -> tuple[_Asking, str | None, FollowsError | None]:
    """Read what stands around the call, and change the scope to a plain request for it.

    Gives how to answer, the token if any, and why the request must not be served, if so.
    """
    asking = _Asking()
    try:
        if scope["method"] == "GET":
            asking.known = sent.get(b"if-none-match", b"")
            if "callback" in platform:
                asking.callback = callback_of(platform["callback"])
                method = platform.get("_method", "").upper()
                if method in ("PUT", "DELETE"):
                    # Only a token that stands in the script's address says that the page means it: no other one counts.
                    scope["method"] = method
                    return asking, platform.get("oauth_token"), None
        elif scope["method"] == "PUT":
            body = await read_body(receive, body_max)
            asked.fields = fields_of(body, sent.get(b"content-type", b"").decode("latin-1"))
    except FollowsError as error:
        return asking, None, error
    return asking, *token_of(sent, platform, asked.fields)


def _finishing(send: Send, asking: _Asking) -> Send:
    """Hold an answer back until it is whole, and send it as it was asked for."""
    status, headers, body = 0, list[tuple[bytes, bytes]](), b""

    async def finish(message: Message) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await _send(send, *_finished(asking, status, headers, body))

    return finish


def _finished(asking: _Asking, status: int, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    own = [*_EVERYWHERE, *asking.extra]
    if asking.callback is not None:
        status, body = 200, script(asking.callback, body)
        own.append((b"content-type", b"application/javascript"))
    elif asking.known is not None and status == 200:
        # Compared only with what we wrote ourselves, so nobody gains by finding another text with the same one.
        etag = b'"%s"' % hashlib.sha1(body, usedforsecurity=False).hexdigest().encode()
        own.append((b"etag", etag))
        if etag in asking.known:
            status, body = 304, b""
    names = {b"content-length", *(name for name, _ in own)}
    return status, [*((name, value) for name, value in headers if name.lower() not in names), *own], body


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    if status not in (204, 304):  # these have no body, not an empty one
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
