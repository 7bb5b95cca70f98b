"""Follow status and follow lists, from one side of the views; numbers in, numbers out."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from commands.errors import BadCursor, UserNotFound
from projections.keys import View, member, number_of, score, unscore
from projections.store import load_script
from queries.reader import ANYTIME, Freshness, Reader

PAGE: Final = load_script("queries", "page.lua", reads=True)
# A cursor is the score in 16 digits (below 2^53) and the number in 19 (below 2^63). All are of one length, so that a
# number from elsewhere, another service's cursor say, is not taken for a place.
_CURSOR_SCORE_DIGITS: Final = 16
_CURSOR_DIGITS: Final = 35

Side = Literal["following", "followers"]


class Row(msgspec.Struct, frozen=True, gc=False):
    """One entry of a list: the other user, since when (us), and the follow's flag."""

    number: int
    created_at: int
    notifications: bool


class Page(msgspec.Struct, frozen=True):
    """A page, the size of the whole list, and the log position both are true for."""

    position: int
    total: int
    rows: list[Row]


class Entries(msgspec.Struct, frozen=True):
    """A page as Redis has it: members and scores side by side, for who shows them without reading each."""

    position: int
    total: int
    members: list[bytes]
    scores: list[bytes]

    def row(self, at: int) -> Row:
        """Read one entry."""
        return Row(number_of(self.members[at]), *unscore(int(self.scores[at])))


class Status(msgspec.Struct, frozen=True):
    """Whether a follow exists: ``row`` or None."""

    position: int
    row: Row | None
    followed_exists: bool


class Window(msgspec.Struct, frozen=True):
    """Which part of a list: ``limit`` rows from ``offset`` on, or behind ``cursor``, newest or oldest first."""

    limit: int
    offset: int = 0
    cursor: tuple[int, int] | None = None
    newest_first: bool = True


def encode_cursor(row: Row) -> str:
    """Write a row's place in its list: 35 digits, in the order of (created_at, notifications, number)."""
    return f"{score(row.created_at, row.notifications):016}{row.number:019}"


def decode_cursor(text: str) -> tuple[int, int]:
    """Read (score, number) from a cursor; raises BadCursor for anything that ``encode_cursor`` does not write."""
    if len(text) != _CURSOR_DIGITS or not (text.isascii() and text.isdigit()):
        raise BadCursor(text)
    place, number = int(text[:_CURSOR_SCORE_DIGITS]), int(text[_CURSOR_SCORE_DIGITS:])
    if place >= 2**53 or not 0 < number < 2**63:
        raise BadCursor(text)
    return place, number


async def page(
    reader: Reader, side: Side, number: int, window: Window, *, named: str, fresh: Freshness = ANYTIME
) -> Page:
    """Give the ``entries`` of a page, read."""
    found = await entries(reader, side, number, window, named=named, fresh=fresh)
    return Page(found.position, found.total, [found.row(at) for at in range(len(found.members))])


async def entries(
    reader: Reader, side: Side, number: int, window: Window, *, named: str, fresh: Freshness = ANYTIME
) -> Entries:
    """Give a page of whom ``number`` follows, or who follows him. Raises UserNotFound(named).

    Rows and total are of one moment. One round trip, O(log n + limit) at any depth.
    """
    place: list[int | str] = [window.offset]
    if window.cursor is not None:
        place += [window.cursor[0], member(window.cursor[1])]
    arguments = [number, "REV" if window.newest_first else "", window.limit, *place]
    exists = False

    async def attempt(view: View) -> Entries | None:
        nonlocal exists
        key = view.followers(number) if side == "followers" else view.following(number)
        lane = view.lane_of(number)
        raw = await reader.store.run(PAGE, [view.checkpoint(lane), view.logins(lane), key], arguments)
        if raw is None:
            return None
        exists = bool(raw[1])
        return Entries(int(raw[0]), raw[2], raw[3][::2], raw[3][1::2])

    result = await reader.read_fresh(attempt, number, fresh)
    if not exists:
        raise UserNotFound(named)
    return result


async def status(reader: Reader, follower: int, followed: int, *, fresh: Freshness = ANYTIME) -> Status:
    """Say whether ``follower`` follows ``followed``, and whether the latter exists. One round trip."""

    async def attempt(view: View) -> Status | None:
        own, other = view.checkpoint(view.lane_of(follower)), view.lane_of(followed)
        # The position first: the row is at least as new. Both last: others may come in between, and of a lane that is
        # lost there the row, or the user, is missing.
        position, value, exists, other_position, still_there = await reader.store.batch(
            (
                ("HGET", own, "position"),
                ("ZSCORE", view.following(follower), member(followed)),
                ("HEXISTS", view.logins(other), followed),
                ("HGET", view.checkpoint(other), "position"),
                ("HGET", own, "position"),
            )
        )
        if None in (position, other_position, still_there) or int(other_position) < reader.since:
            return None
        row = None if value is None else Row(followed, *unscore(int(value)))
        return Status(int(position), row, bool(exists))

    return await reader.read_fresh(attempt, follower, fresh)
