"""What happens to every /kraken request around its call: leniency, CORS, the token, the pipeline, JSON-P and ETags."""

from collections.abc import Mapping
from functools import partial
from time import perf_counter
from typing import Any, Final

import msgspec
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.context import Context, request_headers
from api.head import was_head
from api.kraken.errors import CommandByHead, answer_kraken_error
from api.kraken.jsonp import callback_of, script
from api.kraken.links import base_of
from api.kraken.lists import FollowersCall, channel_followers
from api.kraken.parameters import PageParameters
from api.kraken.request import (
    KrakenRequest,
    fields_of,
    plain_path,
    put_kraken_request,
    put_query,
    query_of,
    token_of,
)
from api.kraken.version_2 import asks_for_version_2, with_fields_of_version_2
from api.one_reading import may_have_body, read_whole_body, two_readings
from api.pipeline import HotCall, begin, respond
from api.reply import RawHeaders, etag_of, raw_headers, without_headers
from api.request_counts import OTHER_OPERATION, note_request, routed_operation
from api.request_id import REQUEST_ID_HEADER, begin_request
from api.services import Services
from api.shutdown import closing_after_chunks
from commands.errors import FollowsError

_EVERYWHERE: Final[RawHeaders] = [(b"x-api-version", b"3"), (b"x-content-type-options", b"nosniff")]
# The operation of the hot call.
_FOLLOWERS: Final = "GET /kraken/channels/{channel}/follows"
_JSON: Final = (b"content-type", b"application/json")
# The header of an answer to a request with a token in its address, which caches and histories keep.
_NO_STORE: Final = (b"cache-control", b"no-store")


class _Asking(msgspec.Struct):
    """How the answer is finished: as a script, or as a 304 if the client has it already, with the headers ``own``."""

    own: RawHeaders
    version_2: bool = False
    callback: str | None = None
    known: bytes | None = None
    context: Context | None = None


def kraken_middleware(app: ASGIApp, services: Services, body_max: int) -> ASGIApp:
    """Wrap the application; ``body_max`` in bytes."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        inside: dict[str, Any] = {**scope, "path": plain_path(scope["path"])}
        headers = request_headers(inside)
        if inside["method"] == "OPTIONS" and two_readings(inside, headers) is None:
            own = [*_EVERYWHERE, *services.cors.preflight(headers)]
            await _send(send, 204, [*own, (REQUEST_ID_HEADER, begin_request(headers).encode())], b"")
            note_request("kraken", OTHER_OPERATION, 204, began)
            return
        query, platform, repeated = query_of(inside)
        identified = bool(platform.get("client_id") or headers.get(b"client-id"))
        request = KrakenRequest(base_of(inside, headers, services.proxies), identified, {})
        put_kraken_request(inside, request)
        asking = _Asking([*_EVERYWHERE, *services.cors.headers(headers)], asks_for_version_2(headers, platform))
        if "oauth_token" in platform:
            asking.own = [*without_headers(asking.own, {b"cache-control"}), _NO_STORE]
        send = closing_after_chunks(headers, send)
        token, problem = await _read(inside, receive, headers, platform, request, asking, body_max)
        reads = inside["method"] == "GET"
        context = await begin(services, inside, headers, token, repeated or problem, reads=reads, dialect="kraken")
        call = find_kraken_call(services, context, request.base, inside, query)
        reply = await respond(services, context, call, answer_kraken_error, reads=reads)
        asking.context = context
        if reply is None:
            put_query(inside, query)
            await app(inside, receive, _finishing(send, asking))  # type: ignore[arg-type]
            note_request("kraken", routed_operation(inside), context.status, began)
        else:
            own = [_JSON, *raw_headers(reply.headers)]
            await _send(send, *_finished(asking, reply.status, own, reply.body, reply.etag))
            note_request("kraken", OTHER_OPERATION if call is None else _FOLLOWERS, reply.status, began)

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
    asking: _Asking,
    body_max: int,
) -> tuple[str | None, FollowsError | None]:
    """Read what comes with the call, change the scope to a plain request for it, and note how to finish the answer.

    Returns the token if any, and why the request must not be served, if so.
    """
    try:
        # Also where no call has one: nothing may be done for a request whose body turns out to be broken.
        body = await read_whole_body(receive, body_max) if may_have_body(sent) else b""
        if scope["method"] == "GET":
            asking.known = sent.get(b"if-none-match", b"")
            if "callback" in platform:
                callback, method = callback_of(platform["callback"]), platform.get("_method", "").upper()
                if method in ("PUT", "DELETE") and was_head(scope):
                    return None, CommandByHead("a command by JSON-P must be sent by GET")
                asking.callback = callback
                if method in ("PUT", "DELETE"):
                    # Only a token in the script's address shows that the page intends the call: no other one counts.
                    scope["method"] = method
                    return platform.get("oauth_token"), None
        elif scope["method"] == "PUT":
            asked.fields = fields_of(body, sent.get(b"content-type", b"").decode("latin-1"))
    except FollowsError as error:
        return None, error
    return token_of(sent, platform, asked.fields)


def _finishing(send: Send, asking: _Asking) -> Send:
    """Wrap ``send``: an answer is held back until it is whole, and sent as the client asked for it."""
    status, headers, body = 0, list[tuple[bytes, bytes]](), b""

    async def finish(message: Message) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
            if asking.context is not None:
                asking.context.status = status
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await _send(send, *_finished(asking, status, headers, body))

    return finish


def _finished(
    asking: _Asking, status: int, headers: RawHeaders, body: bytes, etag: bytes | None = None
) -> tuple[int, RawHeaders, bytes]:
    """Finish an answer; ``etag`` is that of its body as it comes, where it is known."""
    own = [*asking.own, *(asking.context.answer_headers() if asking.context is not None else ())]
    if asking.version_2 and status == 200:
        body, etag = with_fields_of_version_2(body), None
    if asking.callback is not None:
        status, body = 200, script(asking.callback, body)
        own.append((b"content-type", b"application/javascript"))
    elif asking.known is not None and status == 200:
        etag = etag or etag_of(body)
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
