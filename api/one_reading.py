"""One reading of each request (RFC 9112, 3.2 and 6): what a gateway in front may have read otherwise is refused."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from litestar.types import Receive, ReceiveMessage

from commands.errors import Invalid

# They decide the caller, the host of links, the end and the form of the body, and what is answered.
_SINGLE: Final = frozenset(
    (
        b"authorization",
        b"host",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
        b"follow-position",
        b"idempotency-key",
    )
)
_HOST: Final = re.compile(rb"[0-9A-Za-z._~%!$&'()*+;=\[\]:-]{1,255}")
_SLASH: Final = re.compile(b"%2f", re.IGNORECASE)


class TwoReadings(Invalid):
    """Raised for a request that two programs could read differently, so that a gateway's check proves nothing."""


class BodyTooLarge(Invalid):
    """Raised for a body that is longer than any that a call needs."""


def two_readings(scope: Mapping[str, Any], sent: Mapping[bytes, bytes]) -> TwoReadings | None:
    """Return why a request with the headers ``sent`` must be refused, None if it has one reading."""
    if len(sent) != len(scope["headers"]):
        names = [name for name, _ in scope["headers"]]
        for name in _SINGLE:
            if names.count(name) > 1:
                return TwoReadings(f"the request has two {name.decode().title()} headers")
    # The server writes an empty one where there is none. HTTP/1.0 has no Host.
    host = sent.get(b"host", b"")
    if _HOST.fullmatch(host) is None and (host or scope.get("http_version") == "1.1"):
        return TwoReadings("the Host header is missing or is not the name of a host")
    if sent.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        return TwoReadings("the Transfer-Encoding must be chunked")
    return None


def path_of(scope: Mapping[str, Any]) -> str:
    """Return the path with %2F as it was sent: an encoded slash is part of a name, and parts no names."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%" not in raw or _SLASH.search(raw) is None:
        path: str = scope["path"]
        return path
    return unquote_to_bytes(_SLASH.sub(b"%252F", raw)).decode(errors="replace")


def may_have_body(sent: Mapping[bytes, bytes]) -> bool:
    """Return whether a body may come after the headers ``sent``."""
    return sent.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in sent


async def read_whole_body(receive: Receive, most: int) -> bytes:
    """Read the whole body; raises BodyTooLarge beyond ``most`` bytes, and Invalid for a body without an end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the client has gone, or a chunk cannot be read
            raise Invalid("the request ended before its body did")
        body += message.get("body", b"")
        if len(body) > most:
            raise BodyTooLarge(f"the body is longer than {most} bytes")
        if not message.get("more_body", False):
            return body


def already_read(body: bytes) -> Receive:
    """Return the ``receive`` of a request whose body has been read."""

    async def receive() -> ReceiveMessage:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
