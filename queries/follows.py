"""Follow states and follow lists, read from the views; users are numbers here."""

from __future__ import annotations

from typing import Final

import msgspec

from commands.errors import BadCursor, UserNotFound
from commands.users import Side
from projections.client.client import load_script
from projections.keys import View, member, number_of, score, unscore
from queries.reader import ANY_POSITION, AnswerPart, MinPosition, Reader

PAGE: Final = load_script("queries", "page.lua", reads=True)
# A cursor is the score in 16 digits (below 2^53) and the number in 19 (below 2^63). With one fixed length, a number
# from elsewhere (another service's cursor) is refused instead of read as a place in the list.
_CURSOR_SCORE_DIGITS: Final = 16
_CURSOR_DIGITS: Final = 35


class FollowRow(msgspec.Struct, frozen=True, gc=False):
    """One row of a list: the other user's number, since when (us), and the notifications flag."""

    number: int
    created_at: int
    notifications: bool


class Page(msgspec.Struct, frozen=True):
    """A page, the length of the whole list, and the log position that both are true for."""

    position: int
    total: int
    rows: list[FollowRow]


class RawPage(msgspec.Struct, frozen=True):
    """A page as Redis returns it, members and scores apart: rows are made only where they are needed."""

    position: int
    total: int
    members: list[bytes]
    scores: list[bytes]

    def row(self, at: int) -> FollowRow:
        """Return row ``at`` of the page."""
        return FollowRow(number_of(self.members[at]), *unscore(int(self.scores[at])))


class FollowState(msgspec.Struct, frozen=True):
    """The follow, or None when there is none; and whether the followed user exists."""

    position: int
    row: FollowRow | None
    followed_exists: bool


class PageRequest(msgspec.Struct, frozen=True):
    """The wanted part of a list: ``limit`` rows from ``offset`` on, or the ones after ``cursor``."""

    limit: int
    offset: int = 0
    cursor: tuple[int, int] | None = None
    newest_first: bool = True


def encode_cursor(row: FollowRow) -> str:
    """Return a row's place in its list as 35 digits, which sort by (created_at, notifications, number)."""
    return f"{score(row.created_at, row.notifications):016}{row.number:019}"


def decode_cursor(text: str) -> tuple[int, int]:
    """Return (score, number). Raises BadCursor for every text that ``encode_cursor`` does not write."""
    if len(text) != _CURSOR_DIGITS or not (text.isascii() and text.isdigit()):
        raise BadCursor(text)
    place, number = int(text[:_CURSOR_SCORE_DIGITS]), int(text[_CURSOR_SCORE_DIGITS:])
    if place >= 2**53 or not 0 < number < 2**63:
        raise BadCursor(text)
    return place, number


async def page(
    reader: Reader,
    side: Side,
    number: int,
    wanted: PageRequest,
    *,
    as_written: str,
    min_position: MinPosition = ANY_POSITION,
) -> Page:
    """Return a page of a user's list as rows. Otherwise as ``raw_page``."""
    found = await raw_page(reader, side, number, wanted, as_written=as_written, min_position=min_position)
    return Page(found.position, found.total, [found.row(at) for at in range(len(found.members))])


async def raw_page(
    reader: Reader,
    side: Side,
    number: int,
    wanted: PageRequest,
    *,
    as_written: str,
    min_position: MinPosition = ANY_POSITION,
) -> RawPage:
    """Return a page of a user's list; rows and total are of one moment.

    One round trip, O(log n + limit) at any depth. Raises UserNotFound(as_written).
    """
    place: list[int | str] = [wanted.offset]
    if wanted.cursor is not None:
        place += [wanted.cursor[0], member(wanted.cursor[1])]
    arguments = [number, "REV" if wanted.newest_first else "", wanted.limit, *place]
    exists = False

    async def attempt(view: View) -> tuple[RawPage, list[AnswerPart]] | None:
        nonlocal exists
        key = view.followers(number) if side == "followers" else view.following(number)
        partition = view.partition_of(number)
        raw = await reader.redis.run(PAGE, [view.checkpoint(partition), view.logins(partition), key], arguments)
        if raw is None:
            return None
        exists, position = bool(raw[1]), int(raw[0])
        parts = [(partition, number, position, raw[4], False)]
        return RawPage(position, raw[2], raw[3][::2], raw[3][1::2]), parts

    result = await reader.read(attempt, min_position)
    if not exists:
        raise UserNotFound(as_written)
    return result


async def follow_state(
    reader: Reader, follower: int, followed: int, *, min_position: MinPosition = ANY_POSITION
) -> FollowState:
    """Return whether ``follower`` follows ``followed``, and whether the latter exists. One round trip."""

    async def attempt(view: View) -> tuple[FollowState, list[AnswerPart]] | None:
        own, other = view.partition_of(follower), view.partition_of(followed)
        own_checkpoint, other_checkpoint = view.checkpoint(own), view.checkpoint(other)
        # The checkpoints are read first, so that what follows is at least as new. They are read again at the end: if a
        # partition is lost between two of these commands, a missing row or user means nothing.
        (at, word), (other_at, other_word), value, exists, still_there = await reader.redis.batch(
            (
                ("HMGET", own_checkpoint, "position", "word"),
                ("HMGET", other_checkpoint, "position", "word"),
                ("ZSCORE", view.following(follower), member(followed)),
                ("HEXISTS", view.logins(other), followed),
                ("HGET", own_checkpoint, "position"),
            )
        )
        if None in (at, other_at, still_there) or not (exists or await reader.is_there(other_checkpoint)):
            return None
        row = None if value is None else FollowRow(followed, *unscore(int(value)))
        position = int(at)
        parts = [(own, followed, position, word, False), (other, followed, int(other_at), other_word, False)]
        return FollowState(position, row, bool(exists)), parts

    return await reader.read(attempt, min_position)
