"""What a worker does with a view that is not of its log: the log has lost its tail, or a checkpoint is spoiled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from commands.coordination.view_register import set_kept
from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.keys import View
from projections.projector.history import is_same_history
from projections.views import generations
from projections.views.feeder_record import store_of

logger: Final = logging.getLogger(__name__)

# A server of a cluster that does not answer must not hold up what is done about the others.
LOOK_TIMEOUT_S: Final = 1.0


class Strange(msgspec.Struct, frozen=True):
    """A checkpoint that is not of this log: the highest position that its partition holds, and whether a word shows
    another history. Otherwise the checkpoint is spoiled."""

    position: int
    is_foreign: bool


async def strange_checkpoints(
    engine: Engine, redis: RedisClient, view: View, *, needs_all: bool = False
) -> dict[int, Strange]:
    """Return the checkpoints of a view that are not of this log, of the servers that answer.

    The log is read after them, so that none that moves meanwhile is beyond its head. With ``needs_all``, none is
    returned only if all servers answer: otherwise ViewsUnavailable is raised.
    """
    found, away = await generations.reachable(redis, view, range(view.partitions), LOOK_TIMEOUT_S)
    places = {partition: at.words for partition, at in found.items() if at is not None}
    there = await log.words_at(engine, {position for held in places.values() for position, _ in held})
    strange = {
        partition: Strange(
            max(position for position, _ in held),
            any(word is not None and not is_same_history([(position, word)], there) for position, word in held),
        )
        for partition, held in places.items()
        if not is_same_history(held, there)
    }
    if needs_all and away and not strange:
        raise ViewsUnavailable(said=f"{len(away)} partitions are away that may hold what the log has lost")
    return strange


async def lose_spoiled(redis: RedisClient, view: View, strange: Mapping[int, Strange]) -> int:
    """Take the partitions of ``strange_checkpoints`` away of which no word shows another history; return how many.

    Their reads are 503 until the next view is built.
    """
    spoiled = {partition: at for partition, at in strange.items() if not at.is_foreign}
    for partition, at in spoiled.items():
        logger.error(
            "partition %d of generation %d is at position %d, beyond the log's end: it is lost, and the views are "
            "built anew",
            partition,
            view.generation,
            at.position,
        )
    await generations.invalidate(redis, view, spoiled)
    return len(spoiled)


async def keep(engine: Engine, redis: RedisClient, view: View, reason: str) -> bool:
    """Take a view away from readers and keep it for ``follows generations diff``; return whether it was live until now.

    The register comes first: a process that dies here leaves a view that nothing deletes. The process that removes the
    pointer writes the line, before anything else can fail.
    """
    await set_kept(engine, view.generation, view.partitions, f"kept: {reason}", await store_of(redis))
    was_live = await generations.clear_pointer(redis, view)
    if was_live:
        logger.error(
            "%s; generation %d is kept, and the views are built anew; `follows generations diff %d NEW` will name what "
            "differs",
            reason,
            view.generation,
            view.generation,
        )
    await generations.retire(redis, view, generations.FENCE_MAX)
    return was_live
