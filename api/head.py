"""HEAD as GET without its body (RFC 9110, 9.1), for every route at one place."""

from collections.abc import Mapping
from typing import Any, Final

from litestar.types import Message, Scope, Send

_SCOPE_KEY: Final = "follows.head"


def as_get(scope: Scope) -> Scope:
    """Return the scope of the GET that a HEAD asks about."""
    changed: Any = {**scope, "method": "GET", _SCOPE_KEY: True}
    return changed  # type: ignore[no-any-return]


def was_head(scope: Mapping[str, Any]) -> bool:
    """Return whether the client sent HEAD: such a request must change nothing."""
    return _SCOPE_KEY in scope


def without_body(send: Send) -> Send:
    """Wrap a request's ``send``: status and headers are sent as they are, Content-Length included, and no body."""

    async def headers_only(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return headers_only


def allowed_methods(methods: str) -> str:
    """Return the header Allow for the methods of a path's routes, in alphabetical order."""
    found = set(methods.split(", "))
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))
