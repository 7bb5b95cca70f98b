"""Building a view from nothing: fill a new generation beside whatever there is, and switch when it has caught up.

Until the switch nobody sees it. A build that dies leaves a generation that the register knows as ``building``: the next
build of the same shape goes on with it from its own checkpoints.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import msgspec

from commands import log
from commands.generations import begin_generation, mark, registered
from commands.postgres import Engine
from projections import generations
from projections.catch_up import REBUILD_BATCH, Projector
from projections.keys import LANES, View
from projections.store import Store

logger: Final = logging.getLogger(__name__)

# While live readers wait longer than this for their events, a rebuild stands back.
LIVE_LAG_MAX_S: Final = 1.0
STAND_BACK_S: Final = 0.2


class Progress(msgspec.Struct, frozen=True):
    """How far a build is: events projected by this run, its position, and the log's end when last looked at."""

    view: View
    events: int
    position: int
    head: int


async def start_or_resume(engine: Engine, store: Store, lanes: int, fence: int, epoch: UUID, reason: str) -> View:
    """Give the unfinished generation of this shape, if its lanes are all there, else a new one, prepared."""
    for known in reversed(await registered(engine)):
        if known.state != "building":
            continue
        view = View(known.number, known.lanes)
        found = await generations.checkpoints(store, view, range(view.lanes))
        whole = all(checkpoint and checkpoint.epoch == str(epoch) for checkpoint in found.values())
        if whole and known.lanes == lanes:
            logger.info("going on with generation %d", view.generation)
            return view
        await generations.drop(store, view)
        await mark(engine, view.generation, "dropped")
    view = View(await begin_generation(engine, lanes, reason), lanes)
    if any((await generations.checkpoints(store, view, range(lanes))).values()):
        await generations.drop(store, view)  # left by a register that has since been restored to an older state
    await generations.prepare(store, view, epoch, fence)
    logger.info("building generation %d", view.generation)
    return view


async def fill(
    engine: Engine,
    store: Store,
    projector: Projector,
    between: Callable[[Progress], Awaitable[None]],
    *,
    rate: int | None = None,
    batch: int = REBUILD_BATCH,
) -> None:
    """Bring a generation up to the log's end, at most ``rate`` events a second, standing back for live readers.

    ``between`` is called after each batch; it renews the lease, shows progress, and raises to stop.
    """
    started, events, head = time.monotonic(), 0, (await log.head(engine)).position
    while count := await projector.step(batch):
        events += count
        if projector.position > head:
            head = (await log.head(engine)).position
        await between(Progress(projector.view, events, projector.position, head))
        if rate is not None:
            await asyncio.sleep(max(0.0, started + events / rate - time.monotonic()))
        while await live_lag_s(engine, store) > LIVE_LAG_MAX_S:
            await between(Progress(projector.view, events, projector.position, head))
            await asyncio.sleep(STAND_BACK_S)
    await projector.settle()
    await projector.close()


async def live_lag_s(engine: Engine, store: Store) -> float:
    """For how long the live view has been behind the log, in seconds; 0 when there is no live view to spare."""
    view = await generations.live_view(store)
    if view is None:
        return 0.0
    found = await generations.checkpoints(store, view, range(view.lanes))
    if None in found.values():
        return 0.0
    lowest = min(checkpoint.position for checkpoint in found.values() if checkpoint)
    since = await log.recorded_after(engine, lowest)
    return 0.0 if since is None else max(0, (await log.head(engine)).now - since) / 1_000_000


async def switch(engine: Engine, store: Store, view: View) -> None:
    """Make readers see ``view``: one atomic step in Redis, then the register."""
    await generations.switch(store, view)
    await mark(engine, view.generation, "live")
    logger.info("generation %d is live", view.generation)


async def heal(
    engine: Engine, store: Store, fence: int, epoch: UUID, still_ours: Callable[[], Awaitable[None]]
) -> View:
    """Build a view because the live one is lost, switch, and remove what was lost; give the new one.

    ``still_ours`` is called between batches and raises when the lease is lost.
    """

    async def between(_: Progress) -> None:
        await still_ours()

    lost = await generations.live_view(store)
    view = await start_or_resume(engine, store, LANES, fence, epoch, "the live view was lost or there was none")
    projector = Projector(engine, store, view, dict.fromkeys(range(view.lanes), fence), epoch)
    await projector.load()
    await fill(engine, store, projector, between)
    await switch(engine, store, view)
    if lost is not None:
        await generations.drop(store, lost)
        await mark(engine, lost.generation, "dropped")
    return view
