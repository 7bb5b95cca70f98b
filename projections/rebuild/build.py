"""Building a view: fill a new generation next to the live one, which readers see until they are switched.

A build that dies leaves a generation in the register as ``building``. The next build with the same number of partitions
resumes it from its own checkpoints. One process builds at a time: the one that holds the build lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final
from uuid import uuid4

from commands.coordination import leases
from commands.coordination.view_register import register_generation, set_reason, set_state
from commands.db.postgres import Engine
from commands.errors import Unavailable, ViewsUnavailable
from commands.log import event_log as log
from commands.tracing import record_span, span_began
from projections.client.client import RedisClient
from projections.errors import BuildRunning, Fenced
from projections.keys import POINTER, View
from projections.outages import ChangedLine
from projections.projector.history import is_of
from projections.projector.projector import REBUILD_BATCH, Projector
from projections.rebuild.limits import SNAPSHOT_LIMITS, SnapshotLimits
from projections.rebuild.pace import BuildProgress, Pace
from projections.views import generations
from projections.views.feeder_record import registered, store_of
from projections.views.freezes import FENCE_POINTER
from projections.views.leftovers import leftovers
from projections.views.server_watch import evicted_by_run, read_all_servers, wait_for_answer

logger: Final = logging.getLogger(__name__)

# The lease of a killed build is free within TAKE_OVER_S, and a worker that has just healed the view releases it at
# once: both are worth waiting for.
BUILD_LEASE_WAIT_S: Final = leases.TAKE_OVER_S + 0.5
BUILD_LEASE_RETRY_S: Final = 0.1
# The interval at which partitions that no event touches get their checkpoints: a resumed build starts at the lowest.
CHECKPOINTS_EVERY_S: Final = 1.0


class BuildLease:
    """The lease that a build needs, renewed in the background; use ``async with``.

    Entering waits up to ``wait_s`` for another process to release it or to be seen dead, then raises BuildRunning. A
    switch of the owner before, if that was only stopped, is fenced off at the pointer: its view may be deleted now.
    """

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        wait_s: float = BUILD_LEASE_WAIT_S,
        renew_s: float = leases.RENEW_S,
        store: str | None = None,
    ) -> None:
        """``store`` is the word of this Redis; it is read when it is not given."""
        self._engine, self._redis, self._owner, self._store = engine, redis, uuid4(), store
        self._wait_s, self._renew_s = wait_s, renew_s
        self._renewing: asyncio.Task[None] | None = None
        self.fence = 0

    async def __aenter__(self) -> BuildLease:
        until, watch = time.monotonic() + self._wait_s, leases.LeaseWatch(self._engine)
        if self._store is None:
            self._store = await store_of(self._redis)
        while (fence := await self._acquire()) is None:
            if time.monotonic() >= until:
                raise BuildRunning
            with suppress(ViewsUnavailable):  # while Redis is away, no owner renews
                await wait_for_answer(self._redis)
                await watch.look()
            await asyncio.sleep(BUILD_LEASE_RETRY_S)
        self.fence = fence
        logger.info("this process has the build lease as owner %s", self._owner)
        self._renewing = asyncio.create_task(self._renew())
        try:
            highest = await self._redis.run(FENCE_POINTER, [POINTER], [fence])
            await leases.advance_fences(self._engine, highest)  # a restored database would draw refused ones
        except BaseException:
            await self._release()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, trace: TracebackType | None) -> None:
        releasing = asyncio.create_task(self._release())
        try:
            await asyncio.shield(releasing)
        except asyncio.CancelledError:  # a cancelled build must not make the next one wait for its lease
            await releasing
            raise

    async def check(self) -> None:
        """Raise Fenced when the lease was lost; cheap, to be called between the steps of the work."""
        assert self._renewing is not None
        if self._renewing.done():
            raise Fenced("the build lease", "a build that is started again goes on where this one stopped")
        await asyncio.sleep(0)

    async def _acquire(self) -> int | None:
        return await leases.acquire(self._engine, leases.BUILD_LEASE, self._owner, self._store or "")

    async def _release(self) -> None:
        assert self._renewing is not None
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        await leases.release(self._engine, self._owner)

    async def _renew(self) -> None:
        """Renew until another process has the lease. While Postgres or Redis is away the lease is not lost yet."""
        line = ChangedLine(logger)
        while True:
            await asyncio.sleep(self._renew_s)
            try:
                await wait_for_answer(self._redis)
                if await self._acquire() != self.fence:
                    return
                line.reset()
            except Unavailable as error:
                line.warning("the build lease could not be renewed: %s", error)


async def start_or_resume(engine: Engine, redis: RedisClient, partitions: int, fence: int, reason: str) -> View:
    """Return the unfinished generation with ``partitions`` if it can be resumed, else a new, prepared one.

    An unfinished generation that cannot be resumed is deleted; so is one that was begun before a server evicted keys.
    Raises ViewsUnavailable when a server does not return how many keys it has evicted.
    """
    await correct_register(engine, redis)
    for known in reversed(await registered(engine, redis)):
        if known.state != "building":
            continue
        view = View(known.number, known.partitions)
        found = await generations.checkpoints(redis, view, range(view.partitions))
        evicted = await generations.evicted_at_begin(redis, view)
        is_whole = known.partitions == partitions and await is_of(engine, found)
        if is_whole and evicted == evicted_by_run(await read_all_servers(redis)):
            logger.info("resuming generation %d", view.generation)
            await set_reason(engine, view.generation, reason)
            return view
        await generations.delete(redis, view)
        await set_state(engine, view.generation, "deleted")
    highest = await generations.highest_number(redis)
    view = View(await register_generation(engine, partitions, reason, highest, await store_of(redis)), partitions)
    evicted, head = evicted_by_run(await read_all_servers(redis)), await log.head(engine)
    word = (await log.words_at(engine, [0]))[0]
    await generations.prepare(redis, view, word, fence, evicted, (head.position, head.word))
    logger.info("building generation %d", view.generation)
    return view


async def correct_register(engine: Engine, redis: RedisClient) -> View | None:
    """Mark the view that readers see as live, in case a build died between the two; return that view.

    One that is kept is being taken away from readers, and stays kept.
    """
    live = await generations.live_view(redis)
    known = {row.number: row.state for row in await registered(engine, redis)}
    if live is not None and known.get(live.generation, "live") not in ("live", "kept"):
        await set_state(engine, live.generation, "live")
    return live


async def fill(
    engine: Engine,
    redis: RedisClient,
    projector: Projector,
    after_batch: Callable[[BuildProgress], Awaitable[None]],
    *,
    rate: int | None = None,
    batch: int = REBUILD_BATCH,
    limits: SnapshotLimits = SNAPSHOT_LIMITS,
) -> None:
    """Bring a generation to within a batch of the log's end, at ``rate`` events a second, pausing for live readers.

    Partitions at 0 begin with a snapshot, within ``limits``. ``after_batch`` shows progress, and raises to stop it all.
    """
    pace = Pace(engine, redis, projector.view, after_batch, rate, (await log.head(engine)).position)
    written_at, began = time.monotonic(), span_began()
    limit = batch if rate is None else min(batch, rate)
    try:
        if projector.position == 0 and pace.head:
            from projections.rebuild.snapshot import take_snapshot  # numpy takes 25 MB and a tenth of a second

            await take_snapshot(engine, redis, projector, pace, limit, limits)
        is_complete = False
        while not is_complete:
            while count := await projector.step(limit):
                await pace.wait(projector.position, events=count, work=count)
                if time.monotonic() - written_at > CHECKPOINTS_EVERY_S:
                    written_at = time.monotonic()
                    await projector.write_checkpoints()
                if projector.batches.ahead is None:  # under writes there always is something left, less than a batch
                    break
            end = projector.position
            await projector.write_checkpoints()
            await projector.check()
            is_complete = projector.position >= end  # else Redis lost the last writes of a partition meanwhile
        record_span("build", began, generation=projector.view.generation, position=projector.position)
    finally:
        await projector.close()


async def delete_unusable(engine: Engine, redis: RedisClient) -> dict[int, int]:
    """Delete the old generations that readers can never return to; return generation -> keys deleted.

    Those are the ones that lack partitions, and those that the register does not know: it was restored to an older
    state, or is that of another database.
    """
    removed: dict[int, int] = {}
    live, register = await generations.live_view(redis), await registered(engine, redis)
    known = {row.number for row in register} | ({live.generation} if live else set())
    for view in await leftovers(redis):
        if view.generation not in known:
            removed[view.generation] = await generations.delete(redis, view)
    for row in register:
        view = View(row.number, row.partitions)
        if row.state == "old" and await generations.view_position(redis, view) is None:
            removed[row.number] = await generations.delete(redis, view)
            await set_state(engine, row.number, "deleted")
    return removed
