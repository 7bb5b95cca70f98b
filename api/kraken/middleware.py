"""What happens to every /kraken request around its call: leniency, CORS, the token, the pipeline, JSON-P and ETags."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.context import Context, request_headers
from api.head import was_head
from api.kraken.errors import CommandByHead, render_kraken_error
from api.kraken.jsonp import callback_of, script
from api.kraken.links import LinkSettings, base_of
from api.kraken.lists import FollowersCall, channel_followers
from api.kraken.parameters import PageParameters
from api.kraken.request import (
    KrakenRequest,
    fields_of,
    plain_path,
    put_kraken_request,
    put_query,
    query_of,
    read_whole_body,
    token_of,
)
from api.pipeline import HotCall, begin, respond
from api.reply import RawHeaders, raw_headers, without_headers
from api.request_id import REQUEST_ID_HEADER, begin_request
from api.services import Services
from commands.errors import FollowsError

_EVERYWHERE: Final[RawHeaders] = [
    (b"x-api-version", b"3"),
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"ETag, Link, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, x-api-version",
    ),
    # Answers depend on the caller and change at any time: a cache must ask each time whether its copy is current.
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Authorization"),
    (b"x-content-type-options", b"nosniff"),
]
_JSON: Final = (b"content-type", b"application/json")
_PREFLIGHT: Final[RawHeaders] = [
    *_EVERYWHERE,
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (
        b"access-control-allow-headers",
        b"Accept, Authorization, Client-ID, Content-Type, If-None-Match, Idempotency-Key",
    ),
    (b"access-control-max-age", b"86400"),  # a day: nothing of this depends on the request
]


class _Asking(msgspec.Struct):
    """How the answer is finished: as a script, or as a 304 if the client has it already."""

    callback: str | None = None
    known: bytes | None = None
    context: Context | None = None


def kraken_middleware(app: ASGIApp, services: Services, body_max: int) -> ASGIApp:
    """Wrap the application; ``body_max`` in bytes."""
    settings = LinkSettings.from_env()

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        inside: dict[str, Any] = {**scope, "path": plain_path(scope["path"])}
        headers = request_headers(inside)
        if inside["method"] == "OPTIONS":
            await _send(send, 204, [*_PREFLIGHT, (REQUEST_ID_HEADER, begin_request(headers).encode())], b"")
            return
        query, platform = query_of(inside)
        identified = bool(platform.get("client_id") or headers.get(b"client-id"))
        request = KrakenRequest(base_of(inside, headers, settings), identified, {})
        put_kraken_request(inside, request)
        asking, token, problem = await _read(inside, receive, headers, platform, request, body_max)
        reads = inside["method"] == "GET"
        context = await begin(services, inside, headers, token, problem, reads=reads)
        call = find_kraken_call(services, context, request.base, inside, query)
        reply = await respond(services, context, call, render_kraken_error, reads=reads)
        asking.context = context
        if reply is None:
            put_query(inside, query)
            await app(inside, receive, _finishing(send, asking))  # type: ignore[arg-type]
        else:
            own = [_JSON, *raw_headers(reply.headers)]
            await _send(send, *_finished(asking, reply.status, own, reply.body))

    return handle


def find_kraken_call(
    services: Services, context: Context, base: str, scope: Mapping[str, Any], query: Mapping[str, str]
) -> HotCall | None:
    """Return the hot call that a request is for, a page of a channel's followers; None for all others.

    Skipping the router saves two thirds of its time.
    """
    match scope["path"].split("/"):
        case ["", "kraken", "channels", channel, "follows"] if scope["method"] == "GET":
            sent = PageParameters(*map(query.get, ("limit", "offset", "cursor", "direction")))
            return partial(channel_followers, FollowersCall(services, context, base, channel, sent))
    return None


async def _read(
    scope: dict[str, Any],
    receive: Receive,
    sent: Mapping[bytes, bytes],
    platform: Mapping[str, str],
    asked: KrakenRequest,
    body_max: int,
) -> tuple[_Asking, str | None, FollowsError | None]:
    """Read what comes with the call, and change the scope to a plain request for it.

    Returns how to finish the answer, the token if any, and why the request must not be served, if so.
    """
    asking = _Asking()
    try:
        if scope["method"] == "GET":
            asking.known = sent.get(b"if-none-match", b"")
            if "callback" in platform:
                callback, method = callback_of(platform["callback"]), platform.get("_method", "").upper()
                if method in ("PUT", "DELETE") and was_head(scope):
                    return asking, None, CommandByHead("a command by JSON-P must be sent by GET")
                asking.callback = callback
                if method in ("PUT", "DELETE"):
                    # Only a token in the script's address shows that the page intends the call: no other one counts.
                    scope["method"] = method
                    return asking, platform.get("oauth_token"), None
        elif scope["method"] == "PUT":
            body = await read_whole_body(receive, body_max)
            asked.fields = fields_of(body, sent.get(b"content-type", b"").decode("latin-1"))
    except FollowsError as error:
        return asking, None, error
    return asking, *token_of(sent, platform, asked.fields)


def _finishing(send: Send, asking: _Asking) -> Send:
    """Wrap ``send``: an answer is held back until it is whole, and sent as the client asked for it."""
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


def _finished(asking: _Asking, status: int, headers: RawHeaders, body: bytes) -> tuple[int, RawHeaders, bytes]:
    own = [*_EVERYWHERE, *(asking.context.answer_headers() if asking.context is not None else ())]
    if asking.callback is not None:
        status, body = 200, script(asking.callback, body)
        own.append((b"content-type", b"application/javascript"))
    elif asking.known is not None and status == 200:
        # Compared only with answers of this service, so a second text with the same hash is of no use to an attacker.
        etag = b'"%s"' % hashlib.sha1(body, usedforsecurity=False).hexdigest().encode()
        own.append((b"etag", etag))
        if etag in asking.known:
            status, body = 304, b""
    names = {b"content-length", *(name for name, _ in own)}
    return status, [*without_headers(headers, names), *own], body


async def _send(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    if status not in (204, 304):  # these have no body, not an empty one
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
