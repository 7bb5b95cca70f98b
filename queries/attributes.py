"""All users that a user follows, with one attribute of each, read in slices and sorted by it."""

from __future__ import annotations

import asyncio
import struct
from array import array
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from commands.errors import Invalid, UserNotFound, ViewUnavailable
from commands.log.looks import DIRECTORY
from projections.keys import View, number_of
from queries.follows import PAGE
from queries.long_lists import ROWS_AT_ONCE, STEP, ListKey, Pauses, SortedList, sort_in_slices
from queries.reader import AnswerPart, MinPosition, Reader

# Members in one command, and in the commands of one turn of the event loop.
MEMBERS_MAX: Final = 1_000

_EMPTY: Final = SortedList([], 0, b"", array("q"), array("q"), 0)


class _Rows(msgspec.Struct, frozen=True):
    """A slice of a list, oldest follow first, with what was read at the same moment."""

    part: AnswerPart
    exists: bool
    total: int
    members: list[bytes]
    scores: list[bytes]


class FollowedUsers(msgspec.Struct):
    """All users that a user follows, oldest follow first: numbers, members with their scores in the list, attributes
    (None: has none)."""

    numbers: list[int]
    scores: dict[bytes, bytes]
    attributes: list[Any]


# An attribute of each of (numbers, their members), with the parts that they were read from; None when one is lost.
Attributes = tuple[list[Any], list[AnswerPart]] | None
Attribute = Callable[[Reader, View, list[int], list[bytes]], Awaitable[Attributes]]
# A user's number, attribute and score in the list -> (bytes that the user is sorted by or None, value), or None for one
# that is left out. No key is the beginning of another one.
Rank = Callable[[int, Any, int], tuple[bytes | None, int] | None]
# What follows the key in a row to be sorted: number and value. Rows are bytes, since a garbage collection would visit
# tens of thousands of new tuples at once.
_ROW: Final = struct.Struct(">Qq")


class _Query(msgspec.Struct, frozen=True):
    """One call of ``sorted_users``."""

    reader: Reader
    number: int
    attribute: Attribute
    rank: Rank
    min_position: MinPosition
    on_read: Callable[[int], None]


async def sorted_users(
    reader: Reader,
    number: int,
    attribute: Attribute,
    rank: Rank,
    *,
    as_written: str,
    min_position: MinPosition,
    may_be_kept: bool = True,
    on_read: Callable[[int], None] = lambda _: None,
) -> SortedList:
    """Return all users that ``number`` follows, sorted by ``rank`` of ``attribute``.

    A list of more than ROWS_AT_ONCE needs a slot, and is kept. A kept one is returned if it ``may_be_kept``, shows what
    its caller must see, and has the length and the newest follow that the list has now. ``on_read`` gets the length of
    a long list that is read. Raises UserNotFound(as_written), ListsBusy, and Invalid beyond ``followed_max``.
    """
    query = _Query(reader, number, attribute, rank, min_position, on_read)
    exists, total = False, 0

    async def attempt(view: View) -> tuple[SortedList, list[AnswerPart]] | None:
        nonlocal exists, total
        if may_be_kept and (kept := await _kept(query, view)) is not None:
            exists, total = True, kept[0].length
            return kept
        if (first := await _rows(reader, view, number)) is None:
            return None
        exists, total = first.exists, first.total
        if not exists or total > reader.limits.followed_max:
            return _EMPTY, [first.part]
        return await (_read if total <= ROWS_AT_ONCE else _read_in_slot)(query, view, first)

    found = await reader.read(attempt, min_position)
    if not exists:
        raise UserNotFound(as_written)
    if total > reader.limits.followed_max:
        reason = f"lists of more than {reader.limits.followed_max} channels can only be read in the order of created_at"
        raise Invalid(reason, {"sortby": reason})
    return found


async def _read_in_slot(query: _Query, view: View, first: _Rows) -> tuple[SortedList, list[AnswerPart]] | None:
    """Read a long list, or return the one that another request has read while this one waited for its slot."""
    lists, key = query.reader.long_lists, _key(query, view)
    before = lists.find(key)
    async with lists.slot():
        made = lists.find(key)
        is_new = made is not None and made is not before and made.length == first.total
        if made is not None and is_new and _shows(query, view, made):
            return made, made.parts
        query.on_read(first.total)
        read = await _read(query, view, first)
        if read is not None:
            lists.keep(key, msgspec.structs.replace(read[0], made_at=lists.moment()))
        return read


async def _kept(query: _Query, view: View) -> tuple[SortedList, list[AnswerPart]] | None:
    """Return the kept list, if it may be answered; one command of Redis tells whether follows have begun or ended."""
    kept = query.reader.long_lists.find(_key(query, view))
    if kept is None or not _shows(query, view, kept):
        return None
    now = await _rows(query.reader, view, query.number, newest=True)
    if now is None or not now.exists or (now.total, now.scores) != (kept.length, [kept.newest]):
        return None
    return kept, [now.part, *kept.parts]


def _key(query: _Query, view: View) -> ListKey:
    return view.generation, query.number, query.attribute.__name__


def _shows(query: _Query, view: View, kept: SortedList) -> bool:
    try:
        return query.reader.shows_all(view, kept.parts, query.min_position)
    except ViewUnavailable:  # it is of another history of the log
        return False


async def _rows(
    reader: Reader, view: View, number: int, after: tuple[bytes, bytes] | None = None, *, newest: bool = False
) -> _Rows | None:
    """Read the next slice of a list after (score, member), or only its newest row; None when the partition is lost."""
    partition = view.partition_of(number)
    keys = [view.checkpoint(partition), view.logins(partition), view.following(number)]
    limit, direction = (1, "REV") if newest else (ROWS_AT_ONCE, "")
    token = (view.token_field(number), "")  # without a copy
    raw = await reader.redis.run(PAGE, keys, [number, direction, limit, *token, 0, *(after or ())])
    if raw is None:
        return None
    position, word, _, exists, total, rows = raw
    part = reader.checked(view, (partition, number, int(position), word, False))
    return _Rows(part, bool(exists), total, rows[::2], rows[1::2])


async def _read(query: _Query, view: View, first: _Rows) -> tuple[SortedList, list[AnswerPart]] | None:
    """Read the list from its ``first`` slice on, and an attribute of each user, and sort them.

    The slices are of several moments, and the part says the earliest position of them. A row that is toggled meanwhile
    may come twice, with its score changed, and counts once.
    """
    rows, oldest, users, pauses = first, first.part, FollowedUsers([], {}, []), Pauses()
    while True:
        for member, score in zip(rows.members, rows.scores, strict=True):
            if member not in users.scores:
                users.numbers.append(number_of(member))
            users.scores[member] = score
        if first.total <= ROWS_AT_ONCE or len(rows.members) < ROWS_AT_ONCE:
            break
        await pauses.take()
        following = await _rows(query.reader, view, query.number, (rows.scores[-1], rows.members[-1]))
        if following is None:
            return None
        rows = following
        oldest = min(oldest, rows.part, key=lambda part: (part[4], part[2]))  # one that has lost writes first
    members = list(users.scores)
    read = await query.attribute(query.reader, view, users.numbers, members)
    if read is None:
        return None
    users.attributes = read[0]
    parts = [oldest, *read[1]]
    newest = users.scores[members[-1]] if members else b""
    return await _sorted(users, query.rank, parts, newest), parts


async def _sorted(users: FollowedUsers, rank: Rank, parts: list[AnswerPart], newest: bytes) -> SortedList:
    ranked, others = list[bytes](), list[bytes]()
    rows, pauses = zip(users.numbers, users.attributes, users.scores.values(), strict=True), Pauses()
    for count, (number, attribute, score) in enumerate(rows, 1):
        place = rank(number, attribute, int(score))
        if place is not None:
            key, value = place
            (others if key is None else ranked).append((key or b"") + _ROW.pack(number, value))
        if count % STEP == 0:
            await pauses.take()
    numbers, values = array("q"), array("q")
    for order in (await sort_in_slices(ranked, pauses), await sort_in_slices(others, pauses)):
        for start in range(0, len(order), STEP):
            for row in order[start : start + STEP]:
                number, value = _ROW.unpack_from(row, len(row) - _ROW.size)
                numbers.append(number)
                values.append(value)
            await pauses.take()
    return SortedList(parts, len(users.numbers), newest, numbers, values, len(ranked))


async def logins(reader: Reader, view: View, numbers: list[int], _: list[bytes]) -> Attributes:
    """Attribute: the login; None for an erased user."""
    return await _gather(reader, view, numbers, numbers, lambda partition: ("HMGET", view.logins(partition)))


async def last_broadcasts(reader: Reader, view: View, numbers: list[int], members: list[bytes]) -> Attributes:
    """Attribute: when the last broadcast started, in us; None for a user who never had one."""
    return await _gather(reader, view, numbers, members, lambda partition: ("ZMSCORE", view.last_broadcast(partition)))


async def viewers(reader: Reader, view: View, numbers: list[int], members: list[bytes]) -> Attributes:
    """Attribute: the number of viewers; None for a user who is not live."""
    return await _gather(reader, view, numbers, members, lambda partition: ("ZMSCORE", view.live(partition)))


async def _gather(
    reader: Reader,
    view: View,
    numbers: list[int],
    arguments: Sequence[int | bytes],
    command: Callable[[int], tuple[str, str]],
) -> Attributes:
    """Read one attribute of each of ``numbers``; None when a partition is lost.

    ``command`` returns the command and key for a partition; ``arguments`` are the numbers as that command takes them.
    Up to MEMBERS_MAX numbers take one round trip; more take several, and other requests' commands run in between.
    """
    places = await _places(view, numbers)
    values: list[bytes | None] = [None] * len(numbers)
    parts: list[AnswerPart] = []
    pauses = Pauses()
    for at, group in enumerate(_groups(places)):
        if at:
            await pauses.take()
        # The checkpoints are read first, so that no attribute is older, and last: if a partition is lost between two
        # commands, its checkpoint is missing.
        reads = [
            reader.redis.batch(
                (
                    ("HMGET", checkpoint := view.checkpoint(partition), "position", "word"),
                    (*command(partition), *[arguments[at] for at in inside]),
                    ("HGET", checkpoint, "position"),
                )
            )
            for partition, inside in group
        ]
        for (partition, inside), ((position, word), found, after) in zip(
            group, await asyncio.gather(*reads), strict=True
        ):
            if position is None or after is None:
                return None
            for place, value in zip(inside, found, strict=True):
                values[place] = value
            parts.append(reader.checked(view, (partition, DIRECTORY, int(position), word, False)))
    return values, parts


async def _places(view: View, numbers: list[int]) -> dict[int, list[int]]:
    """Return partition -> the places of its users in ``numbers``."""
    places: defaultdict[int, list[int]] = defaultdict(list)
    pauses = Pauses()
    for at, number in enumerate(numbers):
        places[view.partition_of(number)].append(at)
        if at % STEP == 0:
            await pauses.take()
    return places


def _groups(places: dict[int, list[int]]) -> Iterator[list[tuple[int, list[int]]]]:
    """Yield the places of each partition in groups of up to MEMBERS_MAX places, cut where a partition has more."""
    group: list[tuple[int, list[int]]] = []
    size = 0
    for partition, inside in places.items():
        for start in range(0, len(inside), MEMBERS_MAX):
            part = inside[start : start + MEMBERS_MAX]
            if group and size + len(part) > MEMBERS_MAX:
                yield group
                group, size = [], 0
            group.append((partition, part))
            size += len(part)
    if group:
        yield group
