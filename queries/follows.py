"""Follow states and follow lists, read from the views; users are numbers here."""

from __future__ import annotations

from typing import Final

import msgspec

from commands.errors import BadCursor, UserNotFound
from commands.users import Side
from projections.client.client import load_script
from projections.keys import View, member, number_of, score, unscore
from queries.copies import PageCopy
from queries.packed_commands import read_status
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
    """A page as Redis returns it, members and scores apart: rows are made only where they are needed.

    ``copy`` is the kept copy of the page, if there is one.
    """

    position: int
    total: int
    members: list[bytes]
    scores: list[bytes]
    copy: PageCopy | None = None

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

    One round trip, O(log n + limit) at any depth; O(1) when this process has a copy and the list has not changed.
    Raises UserNotFound(as_written).
    """

    async def attempt(view: View) -> tuple[tuple[bool, RawPage], list[AnswerPart]] | None:
        return await _read_page(reader, view, side, number, wanted)

    exists, found = await reader.read(attempt, min_position)
    if not exists:
        raise UserNotFound(as_written)
    return found


async def _read_page(
    reader: Reader, view: View, side: Side, number: int, wanted: PageRequest
) -> tuple[tuple[bool, RawPage], list[AnswerPart]] | None:
    """Return whether the user exists, and the page, with its part; None when the partition is lost."""
    place: list[int | str] = [wanted.offset]
    if wanted.cursor is not None:
        place += [wanted.cursor[0], member(wanted.cursor[1])]
    order, limit, partition = "REV" if wanted.newest_first else "", wanted.limit, view.partition_of(number)
    list_key = view.followers(number) if side == "followers" else view.following(number)
    copy_key = (view.generation, side, number, order, limit, *place)
    copy = reader.copies.find(copy_key)
    raw = await reader.redis.run(
        PAGE,
        [view.checkpoint(partition), view.logins(partition), list_key],
        [number, order, limit, view.token_field(number), b"" if copy is None else copy.token, *place],
    )
    if raw is None:
        return None
    position, word, token, *read = raw
    parts = [(partition, number, int(position), word, False)]
    if not read:
        reader.copies.kept.hits += 1
    else:
        reader.copies.kept.misses += 1
        copy = None if token is None else reader.copies.keep(copy_key, token, *read)
        if copy is None:
            exists, total, rows = read
            return (bool(exists), RawPage(int(position), total, rows[::2], rows[1::2])), parts
    assert copy is not None, "Redis has confirmed its token"
    return (copy.exists, RawPage(int(position), copy.total, copy.members, copy.scores, copy)), parts


async def follow_state(
    reader: Reader, follower: int, followed: int, *, min_position: MinPosition = ANY_POSITION
) -> FollowState:
    """Return whether ``follower`` follows ``followed``, and whether the latter exists. One round trip."""

    async def attempt(view: View) -> tuple[FollowState, list[AnswerPart]] | None:
        own, other = view.partition_of(follower), view.partition_of(followed)
        (at, word), (other_at, other_word), value, exists, still_there = await read_status(
            reader.redis, view, follower, followed
        )
        if None in (at, other_at, still_there) or not (exists or await reader.is_there(view.checkpoint(other))):
            return None
        row = None if value is None else FollowRow(followed, *unscore(int(value)))
        position = int(at)
        parts = [(own, followed, position, word, False), (other, followed, int(other_at), other_word, False)]
        return FollowState(position, row, bool(exists)), parts

    return await reader.read(attempt, min_position)
