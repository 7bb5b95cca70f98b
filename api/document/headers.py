"""The headers in the OpenAPI document: those that a call takes, and those that each of its answers has."""

from collections.abc import Iterator
from typing import Any, Final

from api.context import POSITION_MAX

Entry = dict[str, Any]

_POSITION: Final[Entry] = {"type": "integer", "minimum": 0, "maximum": POSITION_MAX}
_FOLLOW_POSITION: Final[Entry] = {
    "name": "Follow-Position",
    "in": "header",
    "required": False,
    "description": "A position that a command returned: the answer holds that command, or is 503.",
    "schema": _POSITION,
}
_IDEMPOTENCY_KEY: Final[Entry] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key from the same caller gets the first answer again; with another command it is refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_IF_NONE_MATCH: Final[Entry] = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of an answer that the client has: if it is still the same, the answer is 304.",
    "schema": {"type": "string"},
}


def _header(description: str, schema: Entry, example: object, *, always: bool = False) -> Entry:
    return {"description": description, "required": always, "schema": schema, "example": example}


_COUNT: Final[Entry] = {"type": "integer", "minimum": 0}
_TEXT: Final[Entry] = {"type": "string"}
# Name -> the header, for ``components``.
HEADERS: Final[dict[str, Entry]] = {
    "X-Request-Id": _header("The request's id, also in the log of the service.", _TEXT, "7c9e6679", always=True),
    "X-RateLimit-Limit": _header("Requests that the caller may send in a minute.", _COUNT, 100),
    "X-RateLimit-Remaining": _header("Requests that are left in this minute.", _COUNT, 99),
    "X-RateLimit-Reset": _header("The end of this minute, in seconds since 1970.", _COUNT, 1_773_568_860),
    "x-api-version": _header("The version of the dialect.", {"type": "string", "enum": ["3"]}, "3", always=True),
    "ETag": _header("The answer's tag, for `If-None-Match`.", _TEXT, '"1fa9c5"', always=True),
    "Follow-Position": _header(
        "The position of the command in the log. In the answer to a read: how far the answer goes, if not as far "
        "as the request asked.",
        _POSITION,
        6603,
    ),
    "Link": _header(
        "The other pages of the list (RFC 8288): `first`, `prev`, `next`, `last`; in /kraken only `next`.",
        _TEXT,
        '</v1/users/bob/followers?page=2&per_page=20>; rel="next"',
    ),
    "Retry-After": _header("Seconds to wait before the request is repeated.", _COUNT, 1, always=True),
    "WWW-Authenticate": _header("How to send a token.", _TEXT, 'Bearer realm="follows"', always=True),
}
_COUNTED: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def headers_taken(dialect: str, method: str) -> Iterator[Entry]:
    """Yield the headers that a call takes, as parameters."""
    if dialect == "health":
        return
    yield _FOLLOW_POSITION if method == "get" else _IDEMPOTENCY_KEY
    if (dialect, method) == ("kraken", "get"):
        yield _IF_NONE_MATCH


def headers_answered(dialect: str, method: str, status: str, *, is_list: bool) -> Iterator[str]:
    """Yield the names of the headers that an answer has."""
    yield "X-Request-Id"
    if dialect != "health":
        yield from _COUNTED
        if status < "400":
            yield "Follow-Position"
    if dialect == "kraken":
        yield "x-api-version"
        if method == "get" and status in ("200", "304"):
            yield "ETag"
    if is_list and status == "200":
        yield "Link"
    if status in ("429", "503"):
        yield "Retry-After"
    if status == "401":
        yield "WWW-Authenticate"
