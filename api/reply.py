"""A call's answer before it is sent: what the hot calls return, with the router and without it."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from litestar import MediaType, Response

RawHeaders = list[tuple[bytes, bytes]]


class Reply(msgspec.Struct, frozen=True):
    """Status, own headers and JSON body of an answer; ``etag`` of the body where it is known already."""

    body: bytes = b""
    headers: Mapping[str, str] = {}
    status: int = 200
    etag: bytes | None = None


def etag_of(body: bytes) -> bytes:
    """Return the ETag of a body. It is compared only with answers of this service, so a second text with the same hash
    is of no use to an attacker."""
    return b'"%s"' % hashlib.sha1(body, usedforsecurity=False).hexdigest().encode()


def to_response(reply: Reply) -> Response[Any]:
    """Return ``reply`` as the framework sends it."""
    return Response(reply.body, status_code=reply.status, headers=dict(reply.headers), media_type=MediaType.JSON)


def raw_headers(headers: Mapping[str, str]) -> RawHeaders:
    """Return headers as ASGI sends them."""
    return [(_raw_name(name), value.encode()) for name, value in headers.items()]


def without_headers(headers: Iterable[tuple[bytes, bytes]], names: set[bytes]) -> RawHeaders:
    """Return ``headers`` but for those whose lower-case name is in ``names``."""
    return [pair for pair in headers if pair[0].lower() not in names]


@lru_cache(64)
def _raw_name(name: str) -> bytes:
    return name.lower().encode()
