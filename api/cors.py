"""What every answer says to caches, and to browsers about pages of other origins (CORS).

Callers send tokens and no cookies, so pages of all origins may use both dialects unless a setting says otherwise.
"""

import os
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from api.reply import RawHeaders
from commands.errors import SettingsError
from commands.settings import setting

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[0-9a-z._\[\]:-]+")
# What callers may send and what their scripts may read, beyond what CORS allows anyway.
_SENT: Final = (
    b"Accept, Authorization, Client-ID, Content-Type, Follow-Position, Idempotency-Key, If-None-Match, "
    b"X-Request-Id, X-Requested-With"
)
_EXPOSED: Final = (
    b"access-control-expose-headers",
    b"ETag, Follow-Position, Link, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, "
    b"X-Request-Id, x-api-version",
)
_PREFLIGHT: Final[RawHeaders] = [
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (b"access-control-allow-headers", _SENT),
    (b"access-control-max-age", b"86400"),  # a day: nothing of this depends on the request
]
# Answers depend on the caller and change at any time: a cache must ask each time whether its copy is current.
_CACHES: Final = (b"cache-control", b"private, no-cache")
_OF_NONE: Final[RawHeaders] = [_CACHES, (b"vary", b"Authorization")]
_OF_ALL: Final[RawHeaders] = [*_OF_NONE, (b"access-control-allow-origin", b"*"), _EXPOSED]
_OF_OTHERS: Final[RawHeaders] = [_CACHES, (b"vary", b"Authorization, Origin")]


class CorsSettings(msgspec.Struct, frozen=True):
    """The origins whose pages may read answers; None for all of them."""

    origins: frozenset[bytes] | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "CorsSettings":
        """Read FOLLOWS_CORS_ORIGINS; raises SettingsError."""
        given = re.findall(r"[^\s,]+", setting("FOLLOWS_CORS_ORIGINS", env)) or ["*"]
        if given == ["*"]:
            return cls()
        if given == ["none"]:
            return cls(frozenset())
        for origin in given:
            if _ORIGIN.fullmatch(origin.lower()) is None:
                raise SettingsError(
                    f"FOLLOWS_CORS_ORIGINS must be *, none, or origins such as https://app.example.com, not {origin!r}"
                )
        return cls(frozenset(origin.lower().encode() for origin in given))

    def headers(self, sent: Mapping[bytes, bytes]) -> RawHeaders:
        """Return what an answer to a request with the headers ``sent`` says to caches and to browsers.

        A cache must not give one caller's answer to another. Where the origin matters, it must know that too.
        """
        if self.origins is None:
            return _OF_ALL
        if not self.origins:
            return _OF_NONE
        origin = sent.get(b"origin", b"")
        if origin not in self.origins:
            return _OF_OTHERS
        return [*_OF_OTHERS, (b"access-control-allow-origin", origin), _EXPOSED]

    def preflight(self, sent: Mapping[bytes, bytes]) -> RawHeaders:
        """Return the headers of the answer to a browser that asks what its page may send."""
        return [*self.headers(sent), *_PREFLIGHT]


def is_preflight(method: str, sent: Mapping[bytes, bytes]) -> bool:
    """Return whether a browser asks before it sends its page's request."""
    return method == "OPTIONS" and b"origin" in sent and b"access-control-request-method" in sent
