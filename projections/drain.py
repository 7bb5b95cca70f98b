"""The drain: holds leases on lanes, keeps them level with the log, and builds the view anew when it is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from commands import leases, log, pauses
from commands.errors import Unavailable
from commands.postgres import Engine
from projections import building, generations
from projections.catch_up import Broken, Fenced, LogChanged, Projector, ViewLost, groups_of
from projections.keys import APPLIED_CHANNEL, GROUPS, WAKE_CHANNEL, View, group_of
from projections.store import Store
from projections.wakeup import Listener, QueueSettings, open_queue, progress_message

logger: Final = logging.getLogger(__name__)

# Three tries to renew before a lease runs out.
RENEW_S: Final = leases.LEASE_S / 3
# The net under the wake-ups: so often an idle drain reads the log and looks where its lanes stand.
IDLE_S: Final = 1.0
PAUSE_MIN_S: Final = 0.05


class Drain:
    """Projects the lanes that this worker can get; one per worker process."""

    def __init__(self, engine: Engine, store: Store, queue: QueueSettings, owner: UUID) -> None:
        self._engine, self._store, self._queue, self._owner = engine, store, queue, owner
        self._woken = asyncio.Event()
        self._listener = Listener(queue, WAKE_CHANNEL, lambda _: self._woken.set())
        self._publisher: Redis | None = None
        self._fences: dict[str, int] = {}
        self._renew_at = 0.0
        self._end_at = 0.0

    async def run(self, seconds: float) -> None:
        """Drain for so long; what fails of Postgres or Redis is tried again, ever more slowly up to a second."""
        self._end_at = time.monotonic() + seconds
        if self._publisher is None:
            self._publisher = await open_queue(self._queue)
            await self._listener.start()
        pause = PAUSE_MIN_S
        while time.monotonic() < self._end_at:
            try:
                await self._hold()
                pause = PAUSE_MIN_S
            except (Unavailable, Broken, RedisError, OSError) as error:
                logger.warning("the drain pauses for %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, IDLE_S)

    async def close(self) -> None:
        """Stop listening, and give the leases back so that a successor need not wait for their end."""
        if self._publisher is not None:
            await self._listener.close()
            await self._publisher.aclose()
        await leases.release(self._engine, self._owner)

    async def _hold(self) -> None:
        """Take what leases there are and project under them until they change or something is lost."""
        await self._renew()
        pause = await pauses.paused(self._engine)
        if pause is not None or not self._fences:
            await self._idle(RENEW_S)
            return
        head = await log.head(self._engine)
        view = await generations.live_view(self._store)
        if view is None:
            await self._build(head.epoch)
            return
        projector = Projector(self._engine, self._store, view, self._fences_of(view), head.epoch)
        try:
            await projector.load()
            await self._project(projector)
        except LogChanged as error:
            logger.error("%s", error)
            await generations.forget(self._store)  # what was made from another log must not be served
        except ViewLost as error:
            logger.warning("%s", error)
            await self._build(head.epoch)
        except Fenced as error:
            logger.warning("%s", error)
            await self._renew(fresh=True)  # ours still, if the lease is: the other one was a tool or a build
        finally:
            await projector.close()

    def _fences_of(self, view: View) -> dict[int, int]:
        by_group = {group: self._fences.get(_lease(group)) for group in range(GROUPS)}
        fences = {lane: by_group[group_of(lane)] for lane in range(view.lanes)}
        return {lane: fence for lane, fence in fences.items() if fence is not None}

    async def _project(self, projector: Projector) -> None:
        groups = groups_of(projector.fences)
        held = dict(self._fences)
        looked = time.monotonic()
        await self._tell(projector, groups)
        while self._fences == held and time.monotonic() < self._end_at:
            self._woken.clear()
            behind = await projector.step()
            if behind:
                await self._tell(projector, groups)
            else:
                await projector.settle()
            if time.monotonic() - looked >= IDLE_S:
                if not await self._goes_on(projector):
                    return
                looked = time.monotonic()
            if not behind:
                await self._idle(IDLE_S)
            await self._renew_in_time()

    async def _goes_on(self, projector: Projector) -> bool:
        """Once a second: see that the lanes stand where we left them, this view is still the live one, and no pause."""
        await projector.settle()
        await projector.check()
        await projector.refresh_parked()
        if await pauses.paused(self._engine) is not None:
            return False
        return await generations.live_view(self._store) == projector.view

    async def _tell(self, projector: Projector, groups: list[int]) -> None:
        assert self._publisher is not None
        await self._publisher.publish(APPLIED_CHANNEL, progress_message(projector.position, groups))

    async def _build(self, epoch: UUID) -> None:
        """Build the view if the lease for that is ours; who holds the first group's lanes builds."""
        fence = self._fences.get(_lease(0))
        if fence is None:
            await self._idle(RENEW_S)
            return
        await building.heal(self._engine, self._store, fence, epoch, self._must_hold)

    async def _must_hold(self) -> None:
        held = self._fences.get(_lease(0))
        await self._renew_in_time()
        if self._fences.get(_lease(0)) != held:
            raise Fenced("the lease was lost during the build")

    async def _renew_in_time(self) -> None:
        if time.monotonic() >= self._renew_at:
            await self._renew()

    async def _renew(self, *, fresh: bool = False) -> None:
        self._renew_at = time.monotonic() + RENEW_S
        names = [_lease(group) for group in range(GROUPS)]
        self._fences = await leases.share(self._engine, names, self._owner, fresh=fresh)

    async def _idle(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)


def _lease(group: int) -> str:
    return f"lanes:{group}"
