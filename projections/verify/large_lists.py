"""Comparison of a list that is too large for one script call, without stopping the projection of its partition.

The list is read in slices, each with its own position. The log names the entries that change between the first and the
last of these positions. They are left out and examined one by one. Every other entry is the same at all these
positions, so the slices together must equal the fold at any of them. A slice begins after the last *entry* of the one
before, not at a rank, so no entry that stays is missed or read twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import compress
from typing import Final, NamedTuple

import msgspec

from commands.db.postgres import Engine
from commands.log import fold
from commands.users import Side
from projections.client.client import RedisClient, load_script
from projections.errors import ViewLost
from projections.keys import View, member
from projections.verify import cells
from projections.verify.cells import Cell, digest_of, other_of
from projections.verify.limits import VERIFY_LIMITS

SLICE: Final = load_script("projections.verify", "slice.lua", reads=True)


class LargeList(msgspec.Struct, frozen=True):
    """How many entries were read, and the cells that may differ."""

    entries: int
    suspects: list[Cell]


class Slices(NamedTuple):
    """A list as it was read, in slices, with the lowest and the highest position that its partition had meanwhile."""

    slices: list[list[bytes]]
    first: int
    last: int


class Part(msgspec.Struct, frozen=True):
    """Consecutive entries; all entries with low <= score < high are in this part."""

    rows: list[bytes]
    low: int
    high: int


async def compare_large(
    engine: Engine,
    redis: RedisClient,
    view: View,
    side: Side,
    number: int,
    *,
    parked: Collection[int] = (),
    skipped: Sequence[int] = (),
    slice_size: int = VERIFY_LIMITS.slice,
) -> LargeList:
    """Compare one list of a user with the log without the events ``skipped``, but for the entries of ``parked``.

    Raises ViewLost.
    """
    key = cells.list_key(view, side, number)
    slices, first, last = await _read(redis, view, view.partition_of(number), key, slice_size)
    changing = await fold.changed_others(engine, side, number, first, last) if first < last else set()
    excluded = changing | set(parked)
    parts = list(cut(slices))
    left_out: dict[str, Sequence[int]] = {"excluded": list(excluded), "skipped": skipped}
    digests = await fold.read_digests_by_score(engine, side, number, last, [part.low for part in parts[1:]], **left_out)
    suspects = [cells.entry_cell(view, side, number, other) for other in changing.difference(parked)]
    for index, part in enumerate(parts):
        rows = _without(part.rows, excluded)
        if digest_of(rows) != digests.get(index):
            entries = await fold.read_entries(engine, side, {number: last}, low=part.low, high=part.high, **left_out)
            suspects += unequal_entries(view, side, number, rows, entries[number])
    return LargeList(sum(len(part.rows) for part in parts) // 2, suspects)


def unequal_entries(view: View, side: Side, number: int, rows: Sequence[bytes], expected: dict[int, int]) -> list[Cell]:
    """Return the cells in which a list (member, score, ...) differs from the fold (other -> score)."""
    key, partition = cells.list_key(view, side, number), view.partition_of(number)
    left = dict(expected)
    unequal: list[Cell] = []
    for raw, score in zip(rows[::2], rows[1::2], strict=True):
        name = cells.decode_text(raw)
        other = other_of(name)
        if other is None or str(left.pop(other, None)) != cells.plain_score(cells.decode_text(score)):
            unequal.append(Cell(side, partition, key, number, other, name))
    return unequal + [cells.entry_cell(view, side, number, other) for other in left]


async def _read(redis: RedisClient, view: View, partition: int, key: str, size: int) -> Slices:
    slices: list[list[bytes]] = []
    positions: list[int] = []
    last_entry: list[bytes] = []
    while not slices or len(slices[-1]) == 2 * size:
        found = await redis.run(SLICE, [view.checkpoint(partition), key], [size, *last_entry])
        if found is None:
            raise ViewLost(view, partition)
        positions.append(int(found[0]))
        slices.append(found[1])
        last_entry = [found[1][-1], found[1][-2]] if found[1] else []
    return Slices(slices, min(positions), max(positions))


def cut(slices: Iterable[list[bytes]]) -> Iterable[Part]:
    """Cut a list again where the score changes, so that a score tells which part an entry belongs to."""
    low, rows = -fold.SCORE_MAX, list[bytes]()
    for piece in slices:
        rows += piece
        place = _last_change(rows)
        high = _whole(rows[place + 1]) if place else None
        if high is not None:
            yield Part(rows[:place], low, high)
            low, rows = high, rows[place:]
    yield Part(rows, low, fold.SCORE_MAX)


def _last_change(rows: list[bytes]) -> int:
    """Return where the last run of equal scores begins; 0 when there is only one run."""
    place = len(rows)
    while place > 0 and rows[place - 1] == rows[-1]:
        place -= 2
    return max(place, 0)


def _whole(score: bytes) -> int | None:
    text = cells.plain_score(score.decode())
    return int(text) if text.lstrip("-").isdigit() and abs(int(text)) < fold.SCORE_MAX else None


def _without(rows: list[bytes], excluded: Collection[int]) -> list[bytes]:
    if not excluded:
        return rows
    members = {member(other).encode() for other in excluded}
    keep = [name not in members for name in rows[::2] for _ in (0, 1)]
    return list(compress(rows, keep))
