"""Mending exactly the cells that differ, under a hold: the lane stands still while it is decided what they must be.

A hold is a note on the lane's checkpoint with a deadline of Redis' own clock. ``apply.lua`` answers HELD until then,
and ``repair.lua`` writes only while the hold is ours and the lane stands where we looked. Whoever is killed half-way
has written nothing or all of his batch, and the hold runs out by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import uuid4

from commands.postgres import Engine
from projections import cells
from projections.catch_up import ViewLost
from projections.cells import Cell, Read, setting
from projections.examining import CELLS_MAX, Difference, examine
from projections.keys import View
from projections.store import Store, load_script
from projections.verifying import verify

logger: Final = logging.getLogger(__name__)

HOLD: Final = load_script("projections", "hold.lua", reads=False)
REPAIR: Final = load_script("projections", "repair.lua", reads=False)
# Deciding takes some 10 ms. Readers of their own writes wait for a held lane, so it must never be long.
HOLD_MS: Final = 1_000
TRIES_MAX: Final = 20
TRY_AGAIN_S: Final = 0.05
# A key of another type is removed in one round and filled in the next; a third only if a writer came in between.
ROUNDS_MAX: Final = 5


async def mend(engine: Engine, store: Store, view: View, differences: Iterable[Difference]) -> int:
    """Make the cells of ``differences`` hold what the log says now; give how many were changed.

    Raises ViewLost for a lost lane. A cell whose row is newer than its lane is left to the projection.
    """
    by_lane: dict[int | None, list[Cell]] = defaultdict(list)
    for difference in differences:
        by_lane[difference.cell.lane].append(difference.cell)
    mended = 0
    for lane, some in by_lane.items():
        if lane is None:  # keys under a tag that no lane has, and so no projection
            mended += sum([await store.call("UNLINK", cells.encoded(cell.key)) for cell in some])
            continue
        some = [cell for cell in some if cell.what != "lane"]
        for start in range(0, len(some), CELLS_MAX):
            mended += await _mend_held(engine, store, view, lane, some[start : start + CELLS_MAX])
    return mended


async def rebuild_users(engine: Engine, store: Store, view: View, numbers: Sequence[int]) -> int:
    """Make everything about these users in the view what the log says; give how many cells were changed.

    The result is that of removing it all and writing the fold, but readers never see a list that is half there.
    Raises ViewLost.
    """
    mended = 0
    for _ in range(ROUNDS_MAX):

        async def found(differences: list[Difference]) -> None:
            nonlocal mended
            mended += await mend(engine, store, view, differences)

        verdict = await verify(engine, store, view, found, numbers=numbers)
        if not verdict.differences:
            break
    return mended


async def _mend_held(engine: Engine, store: Store, view: View, lane: int, some: Sequence[Cell]) -> int:
    """Mend up to CELLS_MAX cells of one lane; tries again when the hold was too short, or somebody else's."""
    token, checkpoint = uuid4().hex, view.checkpoint(lane)
    for _ in range(TRIES_MAX):
        held = await store.run(HOLD, [checkpoint], [token, HOLD_MS])
        if held is None:
            raise ViewLost(f"lane {lane} of generation {view.generation} is lost")
        if held[0] == 0:
            await asyncio.sleep(TRY_AGAIN_S)
            continue
        try:
            outcome, count = await _decide_and_write(engine, store, view, lane, some, token, held[2])
        finally:
            await _let_go(store, checkpoint, token)
        if outcome == b"OK":
            return count
        logger.warning("lane %d: the repair was %s", lane, outcome.decode())
    return 0


async def _let_go(store: Store, checkpoint: str, token: str) -> None:
    await store.run(HOLD, [checkpoint], [token, 0])


async def _decide_and_write(
    engine: Engine, store: Store, view: View, lane: int, some: Sequence[Cell], token: str, fence: bytes
) -> tuple[bytes, int]:
    examined = await examine(engine, store, view, lane, some)
    operations = list(_operations(examined.differences))
    if not operations:
        return b"OK", 0
    keys, arguments = cells.written(operations)
    head = (examined.position, fence, token)
    outcome: bytes = await store.run(REPAIR, [view.checkpoint(lane), *keys], [*head, *arguments])
    return outcome, len(examined.differences)


def _operations(differences: Sequence[Difference]) -> Iterable[Read]:
    """What must be written: first away with what is of another type, since nothing can be put there."""
    for key in {one.cell.key for one in differences if one.found == cells.OTHER_TYPE}:
        yield Read("UNLINK", key)
    for one in differences:
        yield setting(one.cell, one.expected)
