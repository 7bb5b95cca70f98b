"""The drain: holds leases on lanes, keeps them level with the log, and builds the view anew when it is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final
from uuid import UUID

from redis.exceptions import RedisError

from commands import leases, log, pauses
from commands.errors import StoreUnavailable, Unavailable
from commands.postgres import Engine
from projections import generations
from projections.building import BuildLease, BuildRunning, heal
from projections.catch_up import (
    LIVE_BATCH,
    REBUILD_BATCH,
    Broken,
    Fenced,
    LogChanged,
    Projector,
    ViewLost,
    whole_groups,
)
from projections.keys import APPLIED_CHANNEL, GROUPS, WAKE_CHANNEL, View, group_of
from projections.sighting import Sighting
from projections.store import Store
from projections.wakeup import QUEUE_S, Listener, QueueSettings, Wakeup, progress_message

logger: Final = logging.getLogger(__name__)

# Three tries to renew before a lease runs out.
RENEW_S: Final = leases.LEASE_S / 3
# The net under the wake-ups: so often an idle drain reads the log and looks where its lanes stand.
IDLE_S: Final = 1.0
# Who holds all lanes renews them. Who does not looks oftener: lanes that another gives back are then nobody's for a
# moment only, and commands hardly wait for them.
SEEK_S: Final = 0.2
# What a server of a cluster may take to say where its lanes stand. Its lanes are set aside then, and now and then it
# gets a moment to say that it is back.
LANES_S: Final = 1.0
BACK_S: Final = 0.1
# What fails is tried again after this, and ever more slowly up to IDLE_S.
PAUSE_MIN_S: Final = 0.05

# What passes by itself, or when the lanes, the view or the leases are looked at anew.
PASSING: Final = (Unavailable, Broken, ViewLost, Fenced, RedisError, OSError)


class Drain:
    """Projects the lanes that this worker can get; one per worker process."""

    def __init__(self, engine: Engine, store: Store, queue: QueueSettings, owner: UUID) -> None:
        self._engine, self._store, self._owner = engine, store, owner
        self._sighting = Sighting(store)
        self._away: list[int] = []
        self._woken = asyncio.Event()
        self._listener = Listener(queue, WAKE_CHANNEL, lambda _: self._woken.set())
        self._listening = False
        self._wakeup = Wakeup(queue)
        self._building: asyncio.Task[None] | None = None
        self._fences: dict[str, int] = {}
        self._went_well = False
        self._breaks = 0
        self._renew_at = 0.0
        self._tell_from = 0.0
        self._end_at = 0.0

    async def run(self, seconds: float) -> None:
        """Drain for so long; what fails of Postgres or Redis is tried again. A build goes on beyond that."""
        self._end_at = time.monotonic() + seconds
        if not self._listening:
            self._listening = True
            await self._listener.start(QUEUE_S)
        pause = PAUSE_MIN_S
        while time.monotonic() < self._end_at:
            self._went_well = False
            try:
                await self._turn()
                pause = PAUSE_MIN_S
            except PASSING as error:
                if self._went_well:  # this is no consequence of the fault before
                    pause = PAUSE_MIN_S
                logger.warning("the drain pauses for %.2f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, IDLE_S)

    async def close(self) -> None:
        """Stop listening and building, and give the leases back so that a successor need not wait for their end."""
        if self._building is not None:
            self._building.cancel()
            await asyncio.gather(self._building, return_exceptions=True)
        await self._listener.close()
        await self._wakeup.close()
        await leases.release(self._engine, self._owner)

    async def _turn(self) -> None:
        """Take what leases there are and project under them until they change or something is lost."""
        await self._renew()
        pause = await pauses.paused(self._engine)
        head = await log.head(self._engine)
        view = await self._sighting.last()
        whole = {} if pause else await self._whole(view, head.epoch)
        if view is None or not whole:
            await self._rest()
            return
        projector = Projector(self._engine, self._store, view, whole, head.epoch)
        self._breaks = self._store.breaks
        try:
            await projector.load()
            await self._project(projector)
        except LogChanged as error:  # what was made from another log must not be served
            logger.error("%s", error)
            await generations.forget(self._store, view)
            await generations.lose(self._store, view)
        except Fenced:
            await self._outbid(view)
            raise
        finally:
            await projector.close()

    async def _whole(self, view: View | None, epoch: UUID) -> dict[int, int]:
        """Give our lanes, with the fences of their leases, that can be projected; begin a build if any are lost.

        One dead server of a cluster must not hold up the lanes on the others: its own are set aside until it answers.
        """
        mine, found = {}, dict[int, generations.Checkpoint | None]()
        if view is not None:
            mine = self._fences_of(view)
            found, self._away = await generations.reachable(self._store, view, mine, LANES_S)
            if self._away and not found:
                raise StoreUnavailable
            if self._away:
                logger.warning("%d lanes are set aside, as their server does not answer", len(self._away))
        lost = [lane for lane, checkpoint in found.items() if checkpoint is None]
        if lost or view is None:
            logger.warning("there is no view" if view is None else f"lanes {lost} of the view are lost")
            self._build(epoch)
        return {lane: mine[lane] for lane in found if lane not in lost}

    def _fences_of(self, view: View) -> dict[int, int]:
        by_group = {group: self._fences.get(_lease(group)) for group in range(GROUPS)}
        fences = {lane: by_group[group_of(lane)] for lane in range(view.lanes)}
        return {lane: fence for lane, fence in fences.items() if fence is not None}

    async def _project(self, projector: Projector) -> None:
        held = dict(self._fences)
        looked = time.monotonic()
        seen, behind = await self._tell(projector), 0
        while seen and self._fences == held and time.monotonic() < self._end_at:
            asked = self._woken.is_set()
            self._woken.clear()
            behind = await projector.step(LIVE_BATCH if behind < LIVE_BATCH else REBUILD_BATCH)
            if behind:
                seen = await self._tell(projector)
            else:
                await projector.settle()
                if asked:  # who woke us for nothing new has not heard how far we are
                    seen = await self._tell(projector)
            self._went_well = True
            if time.monotonic() - looked >= IDLE_S or self._is_doubtful():
                if not await self._goes_on(projector):
                    return
                looked = time.monotonic()
                seen = await self._tell(projector)  # also that there is nothing to tell; and what was lost comes next
            elif not behind:
                with suppress(TimeoutError):  # not wait_for, which can swallow that we are told to end
                    async with asyncio.timeout(min(IDLE_S, max(0.0, self._renew_at - time.monotonic()))):
                        await self._woken.wait()
            if time.monotonic() >= self._renew_at:
                await self._renew()

    async def _goes_on(self, projector: Projector) -> bool:
        """Once a second, and when a server was away: see that the lanes stand where we left them, this view is still
        the live one, no lane is to be built anew, and there is no pause."""
        await projector.settle()
        self._breaks = self._store.breaks
        await projector.check()
        await projector.refresh_parked()
        lanes_lost = len(projector.fences) + len(self._away) < len(self._fences_of(projector.view))
        if await pauses.paused(self._engine) is not None or (lanes_lost and not self._is_building()):
            return False
        back, _ = await generations.reachable(self._store, projector.view, self._away, BACK_S)
        return not back and await self._sighting.sees(projector.view) is not False

    def _is_doubtful(self) -> bool:
        """Whether a connection has ended since the lanes were looked at."""
        return self._store.breaks != self._breaks

    async def _tell(self, projector: Projector) -> bool:
        """Tell how far readers can see; False when they look at another view, of which we know nothing.

        Readers rely on it, and a server that was away may have lost what we have written: then nothing is told before
        the lanes have been looked at. That it was away is known here, since it has just been asked for the pointer.
        """
        seen = await self._sighting.sees(projector.view)
        if seen and not self._is_doubtful() and time.monotonic() >= self._tell_from:
            groups = whole_groups(projector.view, projector.fences)
            lanes = {lane: projector.stored[lane] for lane in projector.written}
            generation, changed = projector.view.generation, projector.changed
            message = progress_message(projector.position, groups, generation, changed, lanes)
            if await self._wakeup.publish(APPLIED_CHANNEL, [message]):
                projector.changed = set()
                projector.written.clear()
            else:  # a queue that is away must not hold up the views; who waits looks for himself in the end
                self._tell_from = time.monotonic() + IDLE_S
        return seen is not False

    def _build(self, epoch: UUID) -> None:
        if not self._is_building():
            self._building = asyncio.create_task(self._heal(epoch))

    def _is_building(self) -> bool:
        return self._building is not None and not self._building.done()

    async def _heal(self, epoch: UUID) -> None:
        """Build the view anew, unless somebody else does or has done it."""
        try:
            async with BuildLease(self._engine, patience_s=0) as lease:
                view = await generations.live_view(self._store)
                if view is not None:
                    found = await generations.checkpoints(self._store, view, range(view.lanes))
                    if None not in found.values():
                        return
                await heal(self._engine, self._store, lease.fence, epoch, lease.held)
        except BuildRunning:
            logger.info("the view is being built by somebody else")
        except PASSING as error:
            logger.warning("the build ended: %s", error)
        except Exception:  # nobody waits for this task; the next turn tries again
            logger.exception("the build failed")

    async def _rest(self) -> None:
        """Nothing can be projected now: wait for the build, if it is ours, or until it is time to look again."""
        if self._is_building():
            assert self._building is not None
            await asyncio.wait({self._building}, timeout=RENEW_S)
        else:
            await asyncio.sleep(max(PAUSE_MIN_S, self._renew_at - time.monotonic()))

    async def _outbid(self, view: View) -> None:
        """Another hand had our lanes: a tool, a build, or a worker whose lease they are now. If they are ours still,
        take them under a fence that is higher than any of them has seen."""
        found = await generations.checkpoints(self._store, view, range(view.lanes))
        seen = max((checkpoint.fence for checkpoint in found.values() if checkpoint), default=0)
        await leases.pass_over(self._engine, seen)
        await self._renew(fresh=True)

    async def _renew(self, *, fresh: bool = False) -> None:
        self._renew_at = time.monotonic() + RENEW_S
        names = [_lease(group) for group in range(GROUPS)]
        self._fences = await leases.share(self._engine, names, self._owner, fresh=fresh)
        if len(self._fences) < GROUPS:
            self._renew_at = time.monotonic() + min(SEEK_S, RENEW_S)


def _lease(group: int) -> str:
    return f"{leases.LANES}{group}"
