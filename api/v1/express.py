"""The hot calls of /v1, answered without the router: the same bytes for a third of the work.

A read is answered here only when it is a plain success. Whatever is unusual (another parameter, a user not known yet, a
refusal) gives None and takes the ordinary way through Litestar, which says what it is. A follow is begun or ended once,
so what becomes of it is told here, too. Both ways do everything by the same functions, and tests/api/test_express.py
compares them.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from api.auth import USER_ID, Caller
from api.context import Context
from api.parts import Parts
from api.v1.errors import tell
from api.v1.follows import PER_PAGE, PER_PAGE_MAX, acting, drop_follow, make_follow, read_list
from api.v1.shapes import follow_status_of
from commands.errors import FollowsError
from queries.follows import Side, status
from queries.users import known_number

# Longer numbers are read by the router.
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,8}")
_SIDES: Final[dict[str, Side]] = {"followers": "followers", "following": "following"}


class Answer(msgspec.Struct, frozen=True):
    """An answer: its body in JSON, its own headers, and the log position it is true for."""

    position: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    status: int = 200


async def read(parts: Parts, scope: Mapping[str, Any], caller: Caller) -> Answer | None:
    """Answer a hot read; None for everything else. Begins to read before its first wait."""
    match scope["path"].split("/"):
        case ["", "v1", "users", user_id, call]:
            target = caller.id if user_id == "me" else user_id
        case _:
            return None
    number = known_number(parts.reader, target)
    if number is None or parts.unvetted or USER_ID.fullmatch(target) is None:
        return None
    try:
        if call == "follow-status":
            return await _status(parts, caller, number)
        if call in _SIDES:
            return await _list(parts, _SIDES[call], number, user_id, scope["query_string"])
    except FollowsError:
        return None  # the ordinary way meets it again, and says what it is
    return None


async def command(parts: Parts, scope: Mapping[str, Any], context: Context) -> Answer | None:
    """Begin or end a follow and answer, whatever becomes of it; None for every other request, and when there may be a
    body, which the router reads."""
    match scope["path"].split("/"):
        case ["", "v1", "users", user_id, "follow"] if user_id:
            pass
        case _:
            return None
    method = scope["method"]
    if method not in ("POST", "DELETE") or context.sent.get(b"content-length", b"0") != b"0" or _is_chunked(context):
        return None
    try:
        if method == "POST":
            made, headers = await make_follow(parts, context, acting(context), user_id)
            return Answer(0, msgspec.json.encode(made), _encoded(headers), 201)
        return Answer(0, b"", _encoded(await drop_follow(parts, context, acting(context), user_id)), 204)
    except Exception as error:
        told = tell(error)
        return Answer(0, msgspec.json.encode(told.body), _encoded(told.headers), told.status)


def _is_chunked(context: Context) -> bool:
    return b"transfer-encoding" in context.sent


def _encoded(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple([(name.lower().encode(), value.encode()) for name, value in headers.items()])


async def _status(parts: Parts, caller: Caller, number: int) -> Answer | None:
    own = known_number(parts.reader, caller.id)
    if own is None or own == number:
        return None
    found = await status(parts.reader, own, number)
    return Answer(found.position, msgspec.json.encode(follow_status_of(found))) if found.followed_exists else None


async def _list(parts: Parts, side: Side, number: int, named: str, query: bytes) -> Answer | None:
    place = _place(query)
    if place is None:
        return None
    listed = await read_list(parts.reader, side, number, named, *place)
    return Answer(listed.position, listed.body, ((b"link", listed.link.encode()),))


def _place(query: bytes) -> tuple[int, int] | None:
    """Read (page, rows per page); None for anything but the plain form."""
    if not query:
        return 1, PER_PAGE
    asked: dict[bytes, int] = {}
    for name, _, text in [part.partition(b"=") for part in query.split(b"&")]:
        if name in asked or name not in (b"page", b"per_page") or _NUMBER.fullmatch(text) is None:
            return None
        asked[name] = int(text)
    return asked.get(b"page", 1), min(asked.get(b"per_page", PER_PAGE), PER_PAGE_MAX)
