"""Rebuilding the views on request: beside the live ones, verified, switched in one atomic step, and back again."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID, uuid4

import msgspec

from commands import leases, log
from commands.errors import FollowsError
from commands.generations import Generation, mark, registered
from commands.postgres import Engine
from projections import building, generations
from projections.building import Progress
from projections.catch_up import REBUILD_BATCH, Fenced, Projector
from projections.fold import fold, script_arguments
from projections.keys import LANES, WAKE_CHANNEL, View
from projections.store import Store
from projections.wakeup import QueueSettings, open_queue

logger: Final = logging.getLogger(__name__)

LEASE: Final = "rebuild"
# After the switch the build goes on until the live workers have taken over, or for so long when there are none.
HAND_OVER_S: Final = 5.0
# How often a parent looks at what its fillers have done.
LOOK_S: Final = 0.5

Show = Callable[[Progress], None]
Check = Callable[[View], Awaitable[int]]


class RebuildRefused(FollowsError):
    """The rebuild cannot be done, or must not be finished; readers see what they saw before."""


class Order(msgspec.Struct, frozen=True):
    """What to build: into how many lanes, at most how many events a second, by how many processes, and why."""

    lanes: int = LANES
    rate: int | None = None
    workers: int = 1
    reason: str = "asked for"


class Builder:
    """Holds the lease of rebuilds, of which there is one at a time; use ``async with``."""

    def __init__(self, engine: Engine, store: Store, queue: QueueSettings) -> None:
        self._engine, self._store, self._queue = engine, store, queue
        self._owner = uuid4()
        self._renewed_at = 0.0
        self.fence = 0

    async def __aenter__(self) -> Builder:
        fence = await leases.take(self._engine, LEASE, self._owner)
        if fence is None:
            raise RebuildRefused("another rebuild is running: `follows generations` shows it")
        self.fence = fence
        self._renewed_at = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        await leases.release(self._engine, self._owner)

    async def renew(self) -> None:
        """Keep the lease; raises Fenced when it was lost meanwhile."""
        if time.monotonic() - self._renewed_at < leases.LEASE_S / 3:
            return
        if await leases.take(self._engine, LEASE, self._owner) != self.fence:
            raise Fenced("the lease of the rebuild was lost; it can be started again and goes on where it was")
        self._renewed_at = time.monotonic()

    async def rebuild(self, order: Order, show: Show, check: Check | None) -> View:
        """Fill a new generation (or go on with an unfinished one), check it, switch; give it.

        ``check`` gives the number of differences from the log; any at all, and readers go on seeing the old view.
        """
        epoch = (await log.head(self._engine)).epoch
        view = await building.start_or_resume(self._engine, self._store, order.lanes, self.fence, epoch, order.reason)
        if order.workers > 1:
            await self._fill_by_processes(view, order, show)
        projector = await self._fill(view, epoch, order, show)
        if check is not None:
            differences = await check(view)
            if differences:
                raise RebuildRefused(
                    f"generation {view.generation} differs from the log in {differences} places: not switched"
                )
        await self._fill(view, epoch, order, show)
        await self._switch_and_hand_over(projector)
        return view

    async def undo(self, show: Show) -> View:
        """Bring the newest old generation up to the log and make readers see it again; give it."""
        live = await generations.live_view(self._store)
        candidates = [known for known in await registered(self._engine) if known.state == "old"]
        if not candidates or live is None:
            raise RebuildRefused("there is no older generation to go back to")
        view = View(candidates[-1].number, candidates[-1].lanes)
        projector = await self._fill(view, (await log.head(self._engine)).epoch, Order(lanes=view.lanes), show)
        await self._switch_and_hand_over(projector)
        return view

    async def prune(self) -> dict[int, int]:
        """Remove the generations that nobody sees or builds, in small steps; give generation -> keys removed."""
        live = await generations.live_view(self._store)
        removed: dict[int, int] = {}
        for known in await registered(self._engine):
            if live is not None and known.number == live.generation:
                continue
            removed[known.number] = await generations.drop(self._store, View(known.number, known.lanes))
            await mark(self._engine, known.number, "dropped")
            await self.renew()
        return removed

    async def _fill(self, view: View, epoch: UUID, order: Order, show: Show) -> Projector:
        projector = Projector(self._engine, self._store, view, dict.fromkeys(range(view.lanes), self.fence), epoch)
        await projector.load()

        async def between(progress: Progress) -> None:
            show(progress)
            await self.renew()

        await building.fill(self._engine, self._store, projector, between, rate=order.rate)
        return projector

    async def _switch_and_hand_over(self, projector: Projector) -> None:
        await building.switch(self._engine, self._store, projector.view)
        queue = await open_queue(self._queue)
        try:
            await queue.publish(WAKE_CHANNEL, projector.position)
        finally:
            await queue.aclose()
        until = time.monotonic() + HAND_OVER_S
        try:
            while time.monotonic() < until:
                if not await projector.step():
                    await projector.settle()
                    await projector.check()
                    await asyncio.sleep(0.01)
        except Fenced:
            logger.info("the live workers have taken over generation %d", projector.view.generation)

    async def _fill_by_processes(self, view: View, order: Order, show: Show) -> None:
        """Let ``order.workers`` processes fill a share of the lanes each; raises RebuildRefused when one fails."""
        share = None if order.rate is None else max(1, order.rate // order.workers)
        fillers = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "projections.filler",
                msgspec.json.encode(Share(view, self.fence, index, order.workers, share)).decode(),
            )
            for index in range(order.workers)
        ]
        started = time.monotonic()
        try:
            waiting = [asyncio.create_task(filler.wait()) for filler in fillers]
            while any(not task.done() for task in waiting):
                await asyncio.wait(waiting, timeout=LOOK_S)
                await self.renew()
                found = await generations.checkpoints(self._store, view, range(view.lanes))
                lowest = min(checkpoint.position if checkpoint else 0 for checkpoint in found.values())
                show(Progress(view, lowest, lowest, (await log.head(self._engine)).position))
        finally:
            for filler in fillers:
                if filler.returncode is None:
                    filler.terminate()
                    await filler.wait()
        logger.info("the fillers took %.1f s", time.monotonic() - started)
        if any(filler.returncode for filler in fillers):
            raise RebuildRefused("a filling process failed; what it has done is kept for the next try")


class Share(msgspec.Struct, frozen=True):
    """One process' part of a rebuild: the lanes whose number leaves ``index`` when divided by ``count``."""

    view: View
    fence: int
    index: int
    count: int
    rate: int | None


class Estimate(msgspec.Struct, frozen=True):
    """What a rebuild is going to cost: events to read, bytes in Redis, seconds."""

    events: int
    expected_bytes: int | None
    expected_s: float


async def estimate(engine: Engine, store: Store) -> Estimate:
    """Measure the beginning of the log and the live view, and tell what a rebuild would cost; writes nothing.

    Time: reading and folding of a sample, doubled, since applying takes about as long. Bytes: MEMORY USAGE of the live
    view's lists of a sample of users, times the users; None when there is no live view.
    """
    events = await log.count(engine)
    began = time.perf_counter()
    sample = await log.read_after(engine, 0, REBUILD_BATCH)
    view = await generations.live_view(store)
    shape = view or View(0, LANES)
    folded = fold(sample, shape, dict.fromkeys(range(shape.lanes), 0))
    for batch in folded.lanes.values():
        script_arguments(batch)
    each_s = (time.perf_counter() - began) / max(len(sample), 1)
    return Estimate(events, await _expected_bytes(engine, store, view), events * each_s * 2)


async def _expected_bytes(engine: Engine, store: Store, view: View | None) -> int | None:
    if view is None:
        return None
    numbers, users = await log.sample_users(engine, 500)
    if not numbers:
        return 0
    keys = [key for n in numbers for key in (view.followers(n), view.following(n), view.user(n))]
    sizes = await asyncio.gather(*[store.call("MEMORY", "USAGE", key) for key in keys])
    return int(sum(size or 0 for size in sizes) / len(numbers) * users)


async def known_generations(engine: Engine, store: Store) -> list[tuple[Generation, int | None, bool]]:
    """Give each registered generation with the position it stands at (None: its lanes are gone) and if it is seen."""
    live = await generations.live_view(store)
    known: list[tuple[Generation, int | None, bool]] = []
    for generation in await registered(engine):
        view = View(generation.number, generation.lanes)
        found = await generations.checkpoints(store, view, range(view.lanes))
        positions = [checkpoint.position for checkpoint in found.values() if checkpoint]
        known.append((generation, min(positions) if len(positions) == view.lanes else None, view == live))
    return known
