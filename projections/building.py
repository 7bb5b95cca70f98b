"""Building a view from nothing: fill a new generation beside whatever there is, and switch when it has caught up."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from commands.generations import next_generation
from commands.postgres import Engine
from projections import generations
from projections.catch_up import REBUILD_BATCH, Projector
from projections.keys import LANES, View
from projections.store import Store

logger: Final = logging.getLogger(__name__)


async def build(
    engine: Engine, store: Store, fence: int, epoch: UUID, still_ours: Callable[[], Awaitable[None]]
) -> View:
    """Build a new generation up to the log's end, make readers see it, and remove the one before.

    Until the switch nobody sees it: a build that dies leaves keys that no pointer names. ``still_ours`` is called
    between batches and raises Fenced when the lease is lost.
    """
    before = await generations.live_view(store)
    view = View(await next_generation(engine), LANES)
    logger.info("building generation %d", view.generation)
    await generations.prepare(store, view, epoch, fence)
    projector = Projector(engine, store, view, dict.fromkeys(range(view.lanes), fence), epoch)
    await projector.load()
    while await projector.step(REBUILD_BATCH):
        await still_ours()
    await projector.settle()
    await generations.switch(store, view)
    logger.info("generation %d is live, at position %d", view.generation, projector.position)
    if before is not None:
        dropped = await generations.drop(store, before)
        logger.info("removed %d keys of generation %d", dropped, before.generation)
    return view
