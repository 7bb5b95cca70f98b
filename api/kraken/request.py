"""Requests as clients send them, read leniently: the path, the platform's own parameters, a PUT's fields, the token."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from api.auth.tokens import token_from_header
from api.one_reading import TwoReadings
from commands.errors import FollowsError, Invalid, Unauthenticated

_SLASHES: Final = re.compile(r"/{2,}")
# Parameters for the platform, not for a call; taken out of the query, so that no token goes on with the request.
_PLATFORM: Final = ("oauth_token", "client_id", "api_version", "callback", "_method")
# They decide the caller and the call.
_SINGLE: Final = ("oauth_token", "_method")
# A multipart body, XML and the like have some of these, and a form has none.
_NO_FORM: Final = re.compile(r"[\s<>\"]")
_SCOPE_KEY: Final = "follows.kraken"


class KrakenRequest(msgspec.Struct):
    """A request beyond its path and parameters: this dialect's address, whether it has a client id, the fields of a
    PUT."""

    base: str
    identified: bool
    fields: dict[str, Any]


def kraken_request(scope: Mapping[str, Any]) -> KrakenRequest:
    """Return what the middleware has put into an ASGI scope."""
    request: KrakenRequest = scope[_SCOPE_KEY]
    return request


def put_kraken_request(scope: dict[str, Any], request: KrakenRequest) -> None:
    """Put it there."""
    scope[_SCOPE_KEY] = request


def plain_path(path: str) -> str:
    """Return a path without double slashes and without one at the end, which clients leave in it."""
    return _SLASHES.sub("/", f"/{path}").rstrip("/") or "/"


def is_kraken(path: str) -> bool:
    """Return whether a path belongs to this dialect."""
    plain = plain_path(path) if "//" in path else path
    return plain == "/kraken" or plain.startswith("/kraken/")


def query_of(scope: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str], TwoReadings | None]:
    """Read the query: the call's own parameters, of each the last, the platform's, and why it must be refused, if so.

    Old clients send blank parameters for those that they do not mean.
    """
    sent = scope["query_string"]
    pairs = parse_qsl(sent.decode("latin-1")) if sent else []
    query, problem = dict(pairs), None
    if len(query) != len(pairs) and any(len({value for name, value in pairs if name == one}) > 1 for one in _SINGLE):
        problem = TwoReadings(f"the query has two different values of {' or '.join(_SINGLE)}")
    taken = {name: value for name in _PLATFORM if (value := query.pop(name, ""))}
    return query, taken, problem


def put_query(scope: dict[str, Any], query: Mapping[str, str]) -> None:
    """Put the call's own parameters into the scope, as its query."""
    scope["query_string"] = urlencode(query).encode()


def fields_of(body: bytes, content_type: str) -> dict[str, Any]:
    """Read a form or a JSON object, whichever it looks like: clients send ``{}`` as a form. Raises Invalid."""
    text = body.strip()
    if not text:
        return {}
    if text[:1] in (b"{", b"[") or "json" in content_type.lower():
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Invalid("the body is not a JSON object") from None
    try:
        form = text.decode()
        if content_type.lower().startswith("multipart/") or _NO_FORM.search(form):
            raise Invalid("the body must be a form (application/x-www-form-urlencoded) or a JSON object")
        return dict(parse_qsl(form, errors="strict"))
    except ValueError:
        raise Invalid("the body is not valid UTF-8") from None


def token_of(
    sent: Mapping[bytes, bytes], platform: Mapping[str, str], fields: Mapping[str, Any]
) -> tuple[str | None, FollowsError | None]:
    """Find the token in the header, the query or a PUT's body, in this order; else what was wrong with the header."""
    problem: FollowsError | None = None
    header = sent.get(b"authorization")
    if header is not None:
        try:
            return token_from_header(header.decode("latin-1"), ("OAuth", "Bearer")), None
        except Unauthenticated as error:
            problem = error
    elsewhere = platform.get("oauth_token") or fields.get("oauth_token")
    if isinstance(elsewhere, str) and elsewhere:
        return elsewhere, None
    return None, problem
