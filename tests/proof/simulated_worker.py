"""A simulated worker: the product's feeding, projector and switch, on the simulated connections."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from commands.coordination import leases
from commands.errors import LogUnavailable, Unavailable, ViewsUnavailable
from projections.errors import BatchRefused, Fenced, LogChanged, OtherFeeder, ViewLost
from projections.feeding.feeders import Feeding
from projections.keys import LogNames, View, whole_lease_groups
from projections.projector.projector import Projector
from projections.projector.read_words import ReadWords
from projections.rebuild.switch import switch_readers
from projections.signals.progress import READS_THE_LOG, progress_message
from projections.views import generations
from projections.views.pointer import read_live
from tests.proof.fake_log import FakeLog
from tests.proof.fake_network import FakeLogConnection, SimulatedProcess
from tests.proof.fake_redis import FakeRedis
from tests.proof.simulated_world import IDLE_S, SimulatedWorld

PARTITIONS: Final = 2
TRANSIENT: Final = (LogUnavailable, ViewsUnavailable, Unavailable, BatchRefused, ViewLost)


class SimulatedWorker:
    """A worker that projects all partitions under one fence, higher than those of all workers before it."""

    def __init__(self, world: SimulatedWorld, log: FakeLog, store: FakeRedis) -> None:
        self.log, self.store, self.process = log, store, SimulatedProcess()
        self._world, self._fence = world, log.next_fence()
        self._connection = FakeLogConnection(log, world.network, self.process)
        self._engine = cast(Any, self._connection)
        self._redis = world.redis_client(store, self.process)
        self._read_words = ReadWords()
        self._feeding = Feeding(self._engine, self._redis, self._read_words)
        # Its database must not feed this Redis.
        self.is_refused = False
        world.owners[log, store] = self
        self.task = world.loop.create_task(self._work())

    def stop(self, *, ends_in_order: bool) -> None:
        """End at once; in order, or as by SIGKILL."""
        self.task.cancel()
        if ends_in_order:
            self.log.release(self._fence)

    async def _work(self) -> None:
        """Take turns as the service's loop does; end when another worker has the leases."""
        while True:
            try:
                await self._run_turn()
            except Fenced:
                if self._world.owners[self.log, self.store] is not self:
                    self.log.release(self._fence)
                    return
            except OtherFeeder:
                self.is_refused = True
                self.log.release(self._fence)
                await asyncio.sleep(IDLE_S)
            except TRANSIENT:
                await asyncio.sleep(IDLE_S)
            except Exception as error:
                self._world.wrong.append(f"a worker ends with {type(error).__name__}: {error}")
                raise

    async def _run_turn(self) -> None:
        live, raw = await read_live(self._redis)
        view = None if live is None else live.view
        store = (await self._feeding.require(raw, view)).store
        self.is_refused = False
        await self._renew(store)
        found = {} if view is None else await generations.checkpoints(self._redis, view, range(PARTITIONS))
        if view is None or None in found.values():
            await self._build(store, view)
            return
        await self._overtake([at.fence for at in found.values() if at is not None])
        try:
            await self._project(store, view, raw)
        except LogChanged:
            if not await self._feeding.judge(raw, view):
                raise

    async def _renew(self, store: str) -> None:
        """Say that this worker feeds the Redis of this word, and that it can read the log."""
        now = self._world.loop.time()
        await self._connection.query(lambda: self.log.renew(self._fence, store, now))
        await self._publish(READS_THE_LOG)

    async def _overtake(self, fences: list[int]) -> None:
        """Take a new fence if a partition has seen a higher one, of a build or of another database's worker."""
        if max(fences) > self._fence and self._world.owners[self.log, self.store] is self:
            await leases.advance_fences(self._engine, max(fences))
            self.log.release(self._fence)
            self._fence = await leases.next_fence(self._engine)

    async def _project(self, store: str, view: View, raw: bytes | None) -> None:
        fences, network = dict.fromkeys(range(PARTITIONS), self._fence), self._world.network
        projector = Projector(self._engine, self._redis, view, fences, read_words=self._read_words, store=store)
        limit = self._world.rng.choice((1, 2, 5, 50))
        try:
            run = await self._connection.query(lambda: str(self.log.run))
            await projector.load()
            self._feeding.confirmed_run = projector.batches.run = run
            checked = network.restarts
            while True:
                if not await projector.step(limit):
                    await projector.write_checkpoints()
                    await asyncio.sleep(IDLE_S)
                    checked = network.restarts
                    await projector.check()
                    await projector.refresh_parked()
                    await self._renew(store)
                live, record = await read_live(self._redis)
                if live is None or live.view != view or record != raw:
                    return
                if checked == network.restarts:  # else something may be lost
                    await self._publish(_message_of(projector, store, live.replaces))
                    projector.changed = set()
        finally:
            await projector.close()

    async def _build(self, store: str, lost: View | None) -> None:
        """Build a new generation unless another worker does; delete the lost one key by key."""
        builders, key = self._world.builders, (self.log, self.store)
        if key in builders and not builders[key].done():
            await asyncio.sleep(IDLE_S)
            return
        builders[key] = cast("asyncio.Task[Any]", asyncio.current_task())
        try:
            lost_after = await self._read_words.lost_after(self._engine)
            if lost_after is not None:
                self._read_words.forget(lost_after)
            view = await self._fill(store)
            if view is not None and lost is not None and lost != view and lost.generation not in self.log.kept:
                await generations.invalidate(self._redis, lost)
                for name in [name for name in self.store.key_names() if name.startswith(lost.pattern()[:-1])]:
                    await generations.delete_keys(self._redis, [name])
        finally:
            del builders[key]

    async def _fill(self, store: str) -> View | None:
        """Build a new generation and switch readers to it; None if another worker has built one meanwhile."""
        live, _ = await read_live(self._redis)
        if live is not None:
            found = await generations.checkpoints(self._redis, live.view, range(PARTITIONS))
            if None not in found.values():
                return None
        above = await generations.highest_number(self._redis)
        view = View(await self._connection.query(lambda: self.log.register_generation(store, above)), PARTITIONS)
        await generations.prepare(self._redis, view, 0, self._fence)
        fences = dict.fromkeys(range(PARTITIONS), self._fence)
        projector = Projector(self._engine, self._redis, view, fences, read_words=self._read_words)
        try:
            await projector.load()
            while projector.position < self.log.head:
                while await projector.step(self._world.rng.choice((3, 50))):
                    await self._publish(READS_THE_LOG)
                await projector.write_checkpoints()
            await switch_readers(self._engine, self._redis, cast(Any, self._world), projector)
        finally:
            await projector.close()
        return view

    async def _publish(self, message: bytes) -> None:
        await self._world.publish(LogNames.applied_channel, [message])


def _message_of(projector: Projector, store: str, replaces: int) -> bytes:
    groups, generation = whole_lease_groups(projector.view, projector.fences), projector.view.generation
    at, word, run = projector.checkpointed, projector.history.word(projector.position), projector.batches.run
    return progress_message(projector.position, groups, generation, projector.changed, at, store, replaces, word, run)
