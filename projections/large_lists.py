"""Comparing a list too large to be read at one moment, without stopping the projection of its lane.

It is read in parts, each with its own position. Between the first and the last of these positions some entries change:
those the log names in that stretch. They are left out and judged one by one. Every other entry is the same at all these
positions, so the parts together hold it exactly if the fold at any of them does; and since a part begins behind the
last *entry* of the one before, not at a rank, no entry that stays is passed over or read twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import compress
from typing import Final

import msgspec

from commands import folds
from commands.folds import Side
from commands.postgres import Engine
from projections import cells
from projections.catch_up import ViewLost
from projections.cells import Cell, digest_of, other_of
from projections.keys import View, member
from projections.store import Store, load_script

SLICE: Final = load_script("projections", "slice.lua", reads=True)
# Entries per script call: some 3 ms of Redis' time.
SLICE_MAX: Final = 4_000


class Large(msgspec.Struct, frozen=True):
    """How many entries were read, and the cells to be judged."""

    entries: int
    suspects: list[Cell]


class Part(msgspec.Struct, frozen=True):
    """Entries in a row, as read; no entry of another part has a score from ``low`` to below ``high``."""

    rows: list[bytes]
    low: int
    high: int


async def compare_large(
    engine: Engine,
    store: Store,
    view: View,
    side: Side,
    number: int,
    *,
    parked: Collection[int] = (),
    skipped: Sequence[int] = (),
) -> Large:
    """Compare one side of a user with the log without the events ``skipped``, except for the others in ``parked``.

    Raises ViewLost.
    """
    key = cells.list_key(view, side, number)
    slices, first, last = await _read(store, view, view.lane_of(number), key)
    moving = await folds.touched(engine, side, number, first, last) if first < last else set()
    excluded = moving | set(parked)
    parts = list(_parts(slices))
    leaving_out: dict[str, Sequence[int]] = {"excluded": list(excluded), "skipped": skipped}
    ought = await folds.digests_by_score(engine, side, number, last, [part.low for part in parts[1:]], **leaving_out)
    suspects = [cells.entry(view, side, number, other) for other in moving.difference(parked)]
    for index, part in enumerate(parts):
        rows = _without(part.rows, excluded)
        if digest_of(rows) != ought.get(index):
            at = {number: last}
            entries = await folds.entries(engine, side, at, low=part.low, high=part.high, **leaving_out)
            suspects += unequal_entries(view, side, number, rows, entries[number])
    return Large(sum(len(part.rows) for part in parts) // 2, suspects)


def unequal_entries(view: View, side: Side, number: int, rows: Sequence[bytes], ought: dict[int, int]) -> list[Cell]:
    """The cells in which a list (member, score, ...) is not what the fold (other -> score) says."""
    key, lane = cells.list_key(view, side, number), view.lane_of(number)
    left = dict(ought)
    unequal: list[Cell] = []
    for raw, score in zip(rows[::2], rows[1::2], strict=True):
        name = cells.decoded(raw)
        other = other_of(name)
        if other is None or str(left.pop(other, None)) != cells.plain_score(cells.decoded(score)):
            unequal.append(Cell(side, lane, key, number, other, name))
    return unequal + [cells.entry(view, side, number, other) for other in left]


async def _read(store: Store, view: View, lane: int, key: str) -> tuple[list[list[bytes]], int, int]:
    """Give the list in parts, and the lowest and highest position that its lane had meanwhile."""
    slices: list[list[bytes]] = []
    positions: list[int] = []
    behind: list[bytes] = []
    while not slices or len(slices[-1]) == 2 * SLICE_MAX:
        found = await store.run(SLICE, [view.checkpoint(lane), key], [SLICE_MAX, *behind])
        if found is None:
            raise ViewLost(f"lane {lane} of generation {view.generation} is lost")
        positions.append(int(found[0]))
        slices.append(found[1])
        behind = [found[1][-1], found[1][-2]] if found[1] else []
    return slices, min(positions), max(positions)


def _parts(slices: Iterable[list[bytes]]) -> Iterable[Part]:
    """Cut the list anew where the score changes, so that a score tells which part an entry belongs to."""
    low, rows = -folds.SCORE_MAX, list[bytes]()
    for piece in slices:
        rows += piece
        place = _last_change(rows)
        high = _whole(rows[place + 1]) if place else None
        if high is not None:
            yield Part(rows[:place], low, high)
            low, rows = high, rows[place:]
    yield Part(rows, low, folds.SCORE_MAX)


def _last_change(rows: list[bytes]) -> int:
    """Where the last run of equal scores begins; 0 when there is only one."""
    place = len(rows)
    while place > 0 and rows[place - 1] == rows[-1]:
        place -= 2
    return max(place, 0)


def _whole(score: bytes) -> int | None:
    text = cells.plain_score(score.decode())
    return int(text) if text.lstrip("-").isdigit() and abs(int(text)) < folds.SCORE_MAX else None


def _without(rows: list[bytes], excluded: Collection[int]) -> list[bytes]:
    if not excluded:
        return rows
    out = {member(other).encode() for other in excluded}
    keep = [name not in out for name in rows[::2] for _ in (0, 1)]
    return list(compress(rows, keep))
