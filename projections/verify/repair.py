"""Repair of the cells that differ: a partition is frozen while it is decided what they must hold.

While the token of the freeze is on the checkpoint, ``apply.lua`` answers FROZEN, and ``repair.lua`` writes only with
that token and at the position that was examined. A repair that is killed has written all of a batch or nothing, and the
next process that wants to write breaks the freeze (projections/views/freezes.py).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from uuid import uuid4

from commands.db.postgres import Engine
from projections.client.client import RedisClient, load_script
from projections.feeding.histories import lose_spoiled, strange_checkpoints
from projections.keys import View
from projections.verify import cells
from projections.verify.cells import Cell, CellCommand, by_partition, pack_commands, write_command
from projections.verify.compare import verify
from projections.verify.expected import Difference, examine
from projections.verify.limits import REPAIR_LIMITS, RepairLimits
from projections.views.freezes import Freezes

logger: Final = logging.getLogger(__name__)

REPAIR: Final = load_script("projections.verify", "repair.lua", reads=False)
# A key of another type is removed in one round and filled in the next; a third is needed only after a concurrent write.
REPAIR_ROUNDS_MAX: Final = 5

# Return what differs in a partition that is frozen at this position.
Decide = Callable[[int], Awaitable[list[Difference]]]


class Repaired(NamedTuple):
    """The position at which a partition was repaired, and how many cells were written."""

    position: int
    cells: int


async def repair_cells(
    engine: Engine, redis: RedisClient, view: View, some: Iterable[Cell], limits: RepairLimits = REPAIR_LIMITS
) -> int:
    """Make cells hold what the log says now; return how many were changed.

    A cell whose row is newer than its partition is left to the projection. A partition whose checkpoint is spoiled is
    taken away, and workers build the next generation. Raises ViewLost.
    """
    wanted, changed = list(some), 0
    if any(cell.what == "partition" for cell in wanted):
        changed += await lose_spoiled(redis, view, await strange_checkpoints(engine, redis, view))
    for partition, group in by_partition((cell for cell in wanted if cell.what != "partition"), limits.cells):
        if partition is None:  # keys of no partition, so the projection does not write them
            changed += sum([await redis.call("UNLINK", cells.encode_text(cell.key)) for cell in group])
            continue

        async def decide(_: int, partition: int = partition, group: Sequence[Cell] = group) -> list[Difference]:
            return (await examine(engine, redis, view, partition, group)).differences

        repaired = await repair_partition(engine, redis, view, partition, decide, limits)
        changed += repaired.cells if repaired else 0
    return changed


async def rebuild_users(engine: Engine, redis: RedisClient, view: View, numbers: Sequence[int]) -> int:
    """Make everything about these users in the view what the log says; return how many cells were changed.

    The result is that of removing it all and writing the fold, but readers never see half a list. Raises ViewLost.
    """
    changed = 0
    for _ in range(REPAIR_ROUNDS_MAX):

        async def on_differences(differences: list[Difference]) -> None:
            nonlocal changed
            changed += await repair_cells(engine, redis, view, [one.cell for one in differences])

        result = await verify(engine, redis, view, on_differences, numbers=numbers)
        if not result.differences:
            break
    return changed


async def repair_partition(
    engine: Engine,
    redis: RedisClient,
    view: View,
    partition: int,
    decide: Decide,
    limits: RepairLimits = REPAIR_LIMITS,
) -> Repaired | None:
    """Freeze a partition, write what ``decide`` returns for its position, and unfreeze it.

    Return None when the partition moved, or deciding took too long, in all of ``limits.tries``. Raises ViewLost and
    what ``decide`` raises.
    """
    checkpoint, freezes = view.checkpoint(partition), Freezes(engine, redis)
    for _ in range(limits.tries):
        token = uuid4().hex
        position, fence = await freezes.freeze(view, partition, token)
        try:
            differences = await decide(position)
            keys, arguments = pack_commands(_commands(differences))
            outcome = await redis.run(REPAIR, [checkpoint, *keys], [position, fence, token, *arguments])
        finally:
            await freezes.unfreeze(view, partition, token)
        if outcome == b"OK":
            return Repaired(position, len(differences))
        logger.warning("partition %d was not repaired (%s); trying again", partition, outcome.decode())
    return None


def _commands(differences: Sequence[Difference]) -> Iterator[CellCommand]:
    """Return what must be written. Keys of another type are removed first: no cell can be written there."""
    for key in {one.cell.key for one in differences if one.found == cells.OTHER_TYPE}:
        yield CellCommand("UNLINK", key)
    for one in differences:
        yield write_command(one.cell, one.expected)
