"""The projection loop of a worker: holds leases on partitions and keeps their part of the views up to date."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Final

import msgspec
from redis.exceptions import RedisError

from commands.coordination.leases import LOOK_S, RENEW_S, TAKE_OVER_S
from commands.coordination.pause import read_pause
from commands.db.identity import read_server_run
from commands.db.postgres import Engine
from commands.errors import Unavailable, ViewsUnavailable
from projections.client.client import RedisClient
from projections.errors import BatchRefused, Fenced, LogChanged, OtherFeeder, ViewLost
from projections.feeding.feeders import Feeding
from projections.keys import LogNames, View, whole_lease_groups
from projections.outages import Outage
from projections.partition_leases import PartitionLeases
from projections.projector.projector import LIVE_BATCH, REBUILD_BATCH, Projector
from projections.projector.read_words import ReadWords
from projections.projector.traced_step import traced_step
from projections.rebuild.heal import Healer
from projections.signals.job_queue import QueueSettings
from projections.signals.progress import READS_THE_LOG, progress_message
from projections.signals.wakeups import QUEUE_TIMEOUT_S, Listener, Wakeup
from projections.views import generations
from projections.views.incomplete_view import IncompleteView
from projections.views.pointer import LivePointer

logger: Final = logging.getLogger(__name__)

# Failures that pass by themselves, or once the pointer, the partitions and the leases have been read again.
TRANSIENT: Final = (Unavailable, BatchRefused, ViewLost, Fenced, RedisError, OSError)
# A worker that may not feed this Redis says so at its first turn, and again after this.
REFUSED_AGAIN_S: Final = 60.0


class LoopTiming(msgspec.Struct, frozen=True):
    """How often the loop acts without a wake-up and how long it waits for others, in seconds."""

    renew_s: float = RENEW_S
    # The shortest time between two looks for dead owners of leases.
    look_s: float = LOOK_S
    # A worker that lacks some leases, or the build lease, asks for them this often: what another worker gives back is
    # soon projected again.
    acquire_s: float = 0.2
    # A wake-up can be lost, so an idle worker reads the log and checks its partitions this often. It then publishes a
    # message: web processes rely on one a second from each worker that can read the log.
    idle_s: float = 1.0
    # The same for the log while no wake-up can arrive because the queue is away.
    unsubscribed_idle_s: float = 0.2
    # A server of a cluster that returns no checkpoints within this has its partitions set aside.
    checkpoints_timeout_s: float = 1.0
    # A server whose partitions are set aside gets this long, once per ``idle_s``, to show that it is back.
    recheck_timeout_s: float = 0.1
    # The first pause after a failure. It doubles with each further one, up to ``idle_s``.
    pause_min_s: float = 0.05


class ProjectionLoop:
    """Projects the partitions that this worker holds leases on; one per worker process."""

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        queue: QueueSettings,
        timing: LoopTiming | None = None,
        outage: Outage | None = None,
    ) -> None:
        """``outage`` is shared with the other tasks of the process that fail when Postgres or Redis does."""
        self._engine, self._redis, self._timing = engine, redis, timing or LoopTiming()
        self.leases = PartitionLeases(engine, redis, self._timing.renew_s, self._timing.look_s, self._timing.acquire_s)
        self._pointer = LivePointer(redis)
        self._unreachable: list[int] = []
        self._woken = asyncio.Event()
        self._listener = Listener(queue, LogNames.wake_channel, lambda _: self.wake())
        self._wakeup = Wakeup(queue)
        self._read_words = ReadWords()
        self.healer = Healer(engine, redis, self._wakeup, self._read_words)
        self._feeding = Feeding(engine, redis, self._read_words)
        self._refused_until = 0.0
        self._has_stepped = False
        self._outage = outage or Outage(logger, "the projection goes on")
        self._incomplete = IncompleteView()
        self._disconnects = 0
        self._check_at = self._publish_from = 0.0
        self._before: Projector | None = None
        # Events read by this process, of any view; and the code of what keeps it from projecting.
        self.events = 0
        self.waits_for: str | None = None

    @property
    def position(self) -> int | None:
        """The position that all partitions of this worker had reached, None before it had any."""
        return self._before.position if self._before is not None else None

    def wake(self) -> None:
        """Make the loop read the log and the pointer now."""
        self._woken.set()

    async def run(self) -> None:
        """Project until cancelled. When Postgres or Redis fails, log it, pause and go on."""
        await self._listener.start(QUEUE_TIMEOUT_S)
        pause = self._timing.pause_min_s
        while True:
            self._has_stepped = False
            try:
                await self._run_turn()
                self._outage.end()
                pause = self._timing.pause_min_s
            except OtherFeeder as error:
                await self._stand_back(error)
            except TRANSIENT as error:
                if self._has_stepped:  # so this is another failure than the one before
                    pause = self._timing.pause_min_s
                self._outage.begin(error, "the projection pauses and tries again: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._timing.idle_s)

    async def close(self) -> None:
        """Stop listening and healing, and release the leases, so that a successor need not wait."""
        await self.healer.close()
        await self._listener.close()
        await self._wakeup.close()
        await self._release()

    async def _release(self) -> None:
        try:
            await self.leases.release()
        except Unavailable as error:
            logger.warning("the leases could not be released and are free in %g s: %s", TAKE_OVER_S, error)

    async def _run_turn(self) -> None:
        """Take leases and project under them until they change, readers are switched, or something is lost."""
        view = await self._require_feeder()
        await self.leases.renew()
        pause = await read_pause(self._engine, self.leases.store)
        self.waits_for = "paused" if pause else None
        fences = {} if pause else await self._find_partitions(view)
        if view is None or not fences:
            await self._wakeup.publish(LogNames.applied_channel, [READS_THE_LOG])
            await self._wait_without_work()
            return
        # A cluster's node with the record may be away while the partitions on the others are projected.
        store = self.leases.store
        projector = Projector(self._engine, self._redis, view, fences, read_words=self._read_words, store=store)
        self._disconnects = self._redis.disconnects
        try:
            run = await read_server_run(self._engine)  # before the words are read: a server after it is another one
            await projector.load()
            self._feeding.confirmed_run = projector.batches.run = run
            await projector.go_on_from(self._before, self._pointer.replaces)
            self._before = projector
            await self._project(projector)
        except LogChanged:  # what was made from another log must not be served
            if not await self._feeding.judge(self._pointer.record, view):
                raise
        except ViewLost:
            if await self._pointer.is_live(view) is not False:
                raise
            logger.info("generation %d is not live any more: reading the pointer again", view.generation)
        finally:
            await projector.close()

    async def _require_feeder(self) -> View | None:
        """Return the live view if this worker's database may feed this Redis; raises OtherFeeder."""
        view = await self._pointer.view()
        self.leases.store = (await self._feeding.require(self._pointer.record, view)).store
        return view

    async def _stand_back(self, error: OtherFeeder) -> None:
        """Take nothing for a moment; say why when it begins, and again each minute."""
        self.waits_for = "other_feeder"
        await self.healer.close()
        await self._release()
        if time.monotonic() >= self._refused_until:
            logger.error("this worker projects nothing: %s", error)
            self._refused_until = time.monotonic() + REFUSED_AGAIN_S
        await asyncio.sleep(self._timing.idle_s)

    async def _find_partitions(self, view: View | None) -> dict[int, int]:
        """Return the leased partitions that can be projected, with their fences; start to heal when any is lost.

        One dead server of a cluster must not stop the partitions on the others: its own are set aside until it answers.
        """
        found = dict[int, generations.Checkpoint | None]()
        if view is not None:
            leased, timeout_s = self.leases.of_view(view), self._timing.checkpoints_timeout_s
            found, self._unreachable = await generations.reachable(self._redis, view, leased, timeout_s)
            if self._unreachable and not found:
                raise ViewsUnavailable
            self._incomplete.note_unreachable(self._unreachable)
            await self.leases.overtake(leased, found)
        lost = [partition for partition, checkpoint in found.items() if checkpoint is None]
        self._incomplete.note_lost(view, lost)
        if view is None or lost:
            self.healer.start()
        else:
            self.healer.note_whole()
        leased = {} if view is None else self.leases.of_view(view)
        return {partition: fence for partition, fence in leased.items() if found.get(partition) is not None}

    async def _project(self, projector: Projector) -> None:
        """Project batch after batch; return when leases, pointer, pause or partitions need another look."""
        leased, behind = dict(self.leases.fences), 0
        self._check_at = time.monotonic() + self._timing.idle_s
        is_live = await self._publish_progress(projector)
        while is_live and self.leases.fences == leased:
            was_woken = self._woken.is_set()
            self._woken.clear()
            behind = await traced_step(projector, LIVE_BATCH if behind < LIVE_BATCH else REBUILD_BATCH)
            self.events += behind
            if behind:
                is_live = await self._publish_progress(projector)
            else:
                await projector.write_checkpoints()
                if was_woken:  # by a reader that lost track of the progress, or by a switch
                    is_live = await self._publish_progress(projector)
            self._has_stepped = True
            self._outage.end()
            if time.monotonic() >= self._check_at or self._has_disconnected():
                if not await self._check(projector):
                    return
                self._check_at = time.monotonic() + self._timing.idle_s
                is_live = await self._publish_progress(projector)  # of what was lost, too: the next step repeats it
            elif not behind:
                await self._wait_for_wakeup()
            if time.monotonic() >= self.leases.renew_at:
                await self.leases.renew()

    async def _wait_for_wakeup(self) -> None:
        """Wait until there may be something new to read, or it is time to look without a wake-up."""
        idle_s = self._timing.idle_s if self._listener.is_subscribed else self._timing.unsubscribed_idle_s
        with suppress(TimeoutError):  # not wait_for, which can swallow a cancellation
            wait_s = min(self.leases.renew_at, self._check_at) - time.monotonic()
            async with asyncio.timeout(min(idle_s, max(0.0, wait_s))):
                await self._woken.wait()

    async def _check(self, projector: Projector) -> bool:
        """Check once per ``idle_s``, and after a disconnect, that the projector may go on.

        The partitions must be where it left them, none of them may be lost or back again, the view must be live, and
        the projection not paused.
        """
        await projector.write_checkpoints()
        self._disconnects = self._redis.disconnects
        await projector.check()
        await projector.refresh_parked()
        leased = self.leases.of_view(projector.view)
        lacks_partitions = len(projector.fences) + len(self._unreachable) < len(leased)
        if await read_pause(self._engine, self.leases.store) is not None or (
            lacks_partitions and not self.healer.is_running
        ):
            return False
        back, _ = await generations.reachable(
            self._redis, projector.view, self._unreachable, self._timing.recheck_timeout_s
        )
        return not back and await self._pointer.is_live(projector.view) is not False

    def _has_disconnected(self) -> bool:
        """Return whether a connection to Redis has ended since the partitions were last checked."""
        return self._redis.disconnects != self._disconnects

    async def _publish_progress(self, projector: Projector) -> bool:
        """Publish how far readers can see. Return False when they were switched to another view.

        Readers rely on it. A server that was away may have lost what was written, so nothing is published between a
        disconnect and the next check. Reading the pointer, just before, shows a disconnect. Nothing is published for a
        lease group while one of its partitions is unreachable, because that one may return with older data.
        """
        is_live = await self._pointer.is_live(projector.view)
        if is_live and not self._has_disconnected() and time.monotonic() >= self._publish_from:
            groups, position = whole_lease_groups(projector.view, projector.fences), projector.position
            generation, changed, at = projector.view.generation, projector.changed, projector.checkpointed
            store, replaces, word = self.leases.store, self._pointer.replaces, projector.history.word(position)
            run = projector.batches.run
            message = progress_message(position, groups, generation, changed, at, store, replaces, word, run)
            if await self._wakeup.publish(LogNames.applied_channel, [message]):
                projector.changed = set()
            else:  # a queue that is away must not slow the projection down; waiting callers poll the views in the end
                self._publish_from = time.monotonic() + self._timing.idle_s
        elif time.monotonic() >= self._publish_from:  # web processes must know that the log can be read
            await self._wakeup.publish(LogNames.applied_channel, [READS_THE_LOG])
        return is_live is not False

    async def _wait_without_work(self) -> None:
        """Wait until the view has been healed here, or until it is time to renew the leases and look again."""
        timing, pause_max_s = self._timing, min(self._timing.renew_s, self._timing.idle_s)
        if self.healer.is_running:
            if await self.healer.wait(pause_max_s):
                return
            pause_max_s = timing.acquire_s  # the build lease is held elsewhere, or the build has failed
        await asyncio.sleep(max(timing.pause_min_s, min(pause_max_s, self.leases.renew_at - time.monotonic())))
