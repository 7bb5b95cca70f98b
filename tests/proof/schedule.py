"""One schedule of the simulation: a growing log, readers, workers that crash or pause, servers that lose data.

In some schedules a copy of the database begins to use the same Redis, or a second Redis is fed and moved to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

import msgspec

from commands.errors import Unavailable
from projections.errors import Fenced, OtherFeeder, ViewLost
from projections.feeding.adopt import adopt, look
from projections.keys import POINTER, View, write_word
from tests.proof.fake_log import FakeLog
from tests.proof.fake_network import FakeLogConnection, SimulatedProcess
from tests.proof.fake_redis import FakeRedis
from tests.proof.simulated_callers import CALLERS, USERS, SimulatedCallers
from tests.proof.simulated_web import SimulatedWeb
from tests.proof.simulated_worker import PARTITIONS, SimulatedWorker
from tests.proof.simulated_world import IDLE_S, SimulatedWorld

LOGINS: Final = ("ada", "bob", "login2", "login3")
# Virtual seconds: the length of the busy phase.
BUSY_S: Final = 2.0
WEBS: Final = 2
# Of five schedules, two have nothing of this, and the others one of these: see the faults of that name.
COPIES: Final = ("copy", "same address")
EXTRAS: Final = ("", "", *COPIES, "second redis")
# A command that a worker has sent arrives within this, in virtual seconds, also when the worker is gone.
LAST_ARRIVAL_S: Final = 1.0


class Site(NamedTuple):
    """A database and a Redis that workers feed from it."""

    log: FakeLog
    store: FakeRedis


class Schedule:
    """One run of the simulated service; its seed decides everything."""

    def __init__(self, seed: int, new_redis: Callable[[], FakeRedis] = FakeRedis) -> None:
        self.seed, self.world, self._new_redis = seed, SimulatedWorld(seed), new_redis
        self.loop, self.rng, self.network = self.world.loop, self.world.rng, self.world.network
        self.wrong, self.tally = self.world.wrong, self.world.tally
        self.log = FakeLog()
        self._sites = [Site(self.log, new_redis())]
        self._extra = self.rng.choice(EXTRAS)
        # A history was lost, so that a worker that has read nothing of it needs an operator.
        self._has_lost_tail = False
        self._callers = SimulatedCallers(self.world, self.log, self._sites[0].store)
        self._workers: list[SimulatedWorker] = []
        # What runs beside the faults, of a copy of the database; and the web processes that others have replaced.
        self._beside: list[asyncio.Task[None]] = []
        self._replaced: list[SimulatedWeb] = []
        self._saved: tuple[FakeRedis, dict[str, Any]] | None = None

    def run(self) -> list[str]:
        """Run the schedule and return what was wrong."""
        try:
            self.loop.run_until_complete(self._run())
        finally:
            self.loop.close()
        return self.wrong

    async def _run(self) -> None:
        for number in USERS:
            self.log.register(number)
        loss_rate, self.network.loss_rate = self.network.loss_rate, 0.0
        self._start_worker(self._sites[0])
        if await self.world.until(lambda: _live_view(self._sites[0].store) is not None):
            self.network.loss_rate = loss_rate
            for _ in range(WEBS):
                await self._start_web(self._sites[0])
            callers = [self._callers.call(caller, self.log) for caller in CALLERS]
            readers = [self._callers.read(), self._callers.read()]
            await asyncio.gather(self._write(self.log), *readers, *callers, self._inject_faults())
            await asyncio.gather(*self._beside)
            for web in (*self.world.webs, *self._replaced):
                await web.tail.close()
            self.world.webs.clear()  # they refer back to here
            self._replaced.clear()
            self.network.loss_rate = 0.0
        await self._end()

    async def _end(self) -> None:
        """Let the workers catch up, with an operator's help, and compare the views with the log."""
        sites = [site for site in self._sites if site.log is self.log]
        for site in sites:
            self._start_worker(site)
        operator = self.loop.create_task(self._operate())
        if self._extra == "same address":  # an operator may adopt before the other one is stopped, and again afterwards
            await asyncio.sleep(self.rng.choice((0.0, BUSY_S)))
            for worker in self._workers:
                if worker.log is not self.log:
                    worker.task.cancel()
            await asyncio.sleep(LAST_ARRIVAL_S)
        for site in sites:
            if not await self.world.until(lambda site=site: self._is_caught_up(site.store)):  # type: ignore[misc]
                self.wrong.append(f"the views do not catch up: {site.store.contents()}")
            else:
                self._compare(site.store)
        tasks = [operator, *(worker.task for worker in self._workers)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(LAST_ARRIVAL_S)  # what they had begun ends

    # -- processes

    def _start_worker(self, site: Site) -> None:
        """Start a worker with a higher fence than any before of its database."""
        self._workers.append(SimulatedWorker(self.world, *site))

    async def _start_web(self, site: Site) -> SimulatedWeb:
        web = self.world.start_web(*site)
        await web.tail.start()
        with suppress(Unavailable):  # then it does not know which Redis it will read
            await web.reader.view()
        self.world.webs.append(web)
        return web

    async def _operate(self) -> None:
        """Run ``follows adopt`` for the original database where its workers are refused."""
        while True:
            await asyncio.sleep(IDLE_S)
            for worker in [worker for worker in self._workers if worker.is_refused and not worker.task.done()]:
                if worker.log is self.log:
                    if self._extra not in COPIES and not self._has_lost_tail:
                        self.wrong.append("a worker of the only database is refused")
                    with suppress(Unavailable, OtherFeeder, ViewLost, Fenced):
                        await self._adopt(Site(worker.log, worker.store))
                    worker.task.cancel()
                    self._start_worker(Site(worker.log, worker.store))

    async def _adopt(self, site: Site) -> None:
        process = SimulatedProcess()
        engine = cast(Any, FakeLogConnection(site.log, self.network, process))
        redis = self.world.redis_client(site.store, process)
        await adopt(engine, redis, *await look(engine, redis))
        self.tally["adoptions"] = self.tally.get("adoptions", 0) + 1

    # -- the log grows

    async def _write(self, log: FakeLog) -> None:
        """Write what all callers but ours write. No event is unreadable where a view may be continued by another
        database: that does not know what the one before had parked, until ``follows verify``."""
        rng = self.rng
        for _ in range(rng.randrange(4, 12)):
            await asyncio.sleep(rng.random() * BUSY_S / 6)
            for _ in range(rng.choice((1, 1, 1, 4))):
                pair = cast("tuple[int, int]", tuple(rng.sample(USERS, 2)))
                what = rng.random()
                if what < 0.8:
                    log.toggle_follow(pair, notifications=rng.random() < 0.3)
                elif what < 0.95 or self._extra in COPIES:
                    log.rename(pair[0], rng.choice(LOGINS))
                else:
                    log.append_unreadable(pair)

    # -- faults

    async def _inject_faults(self) -> None:
        rng = self.rng
        faults: list[Callable[[], Coroutine[Any, Any, None]]] = [
            rng.choice(
                (
                    self._crash_workers,
                    self._crash_workers,
                    self._stop_workers,
                    self._pause_workers,
                    self._pause_workers,
                    self._start_second_worker,
                    self._save_redis,
                    self._restore_redis,
                    self._lose_last_writes,
                    self._empty_redis,
                    self._leave_partition_frozen,
                    self._lose_tail_of_log,
                    self._stop_log,
                    self._stop_web,
                    self._cut_off_web,
                )
            )
            for _ in range(rng.choice((0, 1, 2, 4, 6)))
        ]
        if self._extra:
            extra = self._feed_second_redis if self._extra == "second redis" else self._copy_log
            faults.insert(rng.randrange(len(faults) + 1), extra)
        for fault in faults:
            await asyncio.sleep(rng.random() * BUSY_S / 3)
            self.tally["faults"] += 1
            await fault()

    async def _crash_workers(self) -> None:
        """Stop all workers at once, at whatever step they are; commands that they have sent still arrive."""
        await self._restart_workers(self.rng.random() * IDLE_S)

    async def _stop_workers(self) -> None:
        """Leave the views without a worker until commands are answered without them."""
        await self._restart_workers(self.rng.random() * 2 * BUSY_S)

    async def _restart_workers(self, after_s: float) -> None:
        """Stop all workers: in half of the cases they end in order, and their database forgets them at once."""
        ends_in_order = self.rng.random() < 0.5
        for worker in self._workers:
            worker.stop(ends_in_order=ends_in_order)
        await asyncio.sleep(after_s)
        for site in self.rng.sample(self._sites, len(self._sites)):
            self._start_worker(site)

    async def _pause_workers(self) -> None:
        """Pause the workers and start a successor; later they continue with the state that they had."""
        for worker in self._workers:
            worker.process.stopped_until = self.loop.time() + self.rng.random() * BUSY_S
        await self._start_second_worker()

    async def _start_second_worker(self) -> None:
        """Start a successor while the worker runs."""
        self._start_worker(self.rng.choice(self._sites))

    async def _save_redis(self) -> None:
        """Remember what a Redis holds; later writes may be lost, since Redis acknowledges them before they are safe."""
        store = self.rng.choice(self._sites).store
        self._saved = store, store.dump()

    async def _restore_redis(self) -> None:
        """Lose the writes since the last save, of all partitions or (as in a cluster) of one."""
        if self._saved is None:
            return
        store, saved = self._saved
        partition = self.rng.choice((None, *range(PARTITIONS)))
        self.network.restarts += 1  # a restart breaks the open connections
        for web in self.world.webs:
            web.tail.on_connection()
        store.delete_keys(name for name in store.key_names() if _is_of(partition, name))
        store.restore({name: value for name, value in saved.items() if _is_of(partition, name)})

    async def _lose_last_writes(self) -> None:
        """Lose what all keys got in the last second at most."""
        await self._save_redis()
        await asyncio.sleep(self.rng.random())
        await self._restore_redis()

    async def _empty_redis(self) -> None:
        """Delete all keys, or (as in a cluster) those of one partition."""
        store = self.rng.choice(self._sites).store
        partition = self.rng.choice((None, *range(PARTITIONS)))
        self._saved = None
        store.delete_keys(name for name in store.key_names() if _is_of(partition, name))

    async def _leave_partition_frozen(self) -> None:
        """Freeze a partition and die, as a switch or a repair that is killed."""
        store = self.rng.choice(self._sites).store
        view = _live_view(store)
        checkpoint = "" if view is None else view.checkpoint(self.rng.randrange(PARTITIONS))
        if view is not None and store.execute("HGET", checkpoint, "position") is not None:
            store.execute("HSET", checkpoint, "frozen", f"{self.rng.random()}")

    async def _lose_tail_of_log(self) -> None:
        """Fail over to a standby that lacks the last events; users stay registered."""
        self._has_lost_tail = True
        self.log.lose_tail(self.rng.randrange(len(USERS), self.log.head + 1))

    async def _stop_log(self) -> None:
        """Let the log refuse all queries, or not answer them, for a while."""
        self.network.log_refuses = self.rng.random() < 0.5
        self.network.log_away_until = self.loop.time() + self.rng.random() * 2 * BUSY_S

    async def _stop_web(self) -> None:
        """Let the answers of all servers reach a web process late: its looks are old, or fail."""
        self.rng.choice(self.world.webs).process.stopped_until = self.loop.time() + self.rng.random() * BUSY_S

    async def _cut_off_web(self) -> None:
        """Let a web process alone not reach the log."""
        self.rng.choice(self.world.webs).process.cut_off_until = self.loop.time() + self.rng.random() * 2 * BUSY_S

    async def _copy_log(self) -> None:
        """Copy the database, and start a worker and a web process on the copy at the same Redis.

        The logs differ from now on. The copy can be told from the original, or answers behind its address.
        """
        copy = self.log.copy(same_address=self._extra == "same address")
        site = Site(copy, self._sites[0].store)
        self._sites.append(site)
        self._start_worker(site)
        self._beside.append(self.loop.create_task(self._write(copy)))
        if self._extra == "same address":
            self._callers.also_seen = copy
        await self._start_web(site)
        self._beside += [self.loop.create_task(self._callers.call(caller, copy)) for caller in CALLERS]

    async def _feed_second_redis(self) -> None:
        """Feed a second Redis from the same log and move some web processes to it; with all, stop the old workers."""
        first, second = self._sites[0], Site(self.log, self._new_redis())
        self._sites.append(second)
        self._start_worker(second)
        if not await self.world.until(lambda: _live_view(second.store) is not None, 2 * BUSY_S):
            return
        staying = 0
        for web in list(self.world.webs):
            await asyncio.sleep(self.rng.random() * BUSY_S / 3)
            if self.rng.random() < 0.2:
                staying += 1
                continue
            await self._start_web(second)
            self.world.webs.remove(web)
            self._replaced.append(web)
        if not staying and self.rng.random() < 0.5:
            self._sites.remove(first)
            for worker in self._workers:
                if worker.store is first.store:
                    worker.task.cancel()

    # -- what must hold

    def _is_caught_up(self, store: FakeRedis) -> bool:
        """Return whether all partitions are at the log's end, and have read it in the history that there is now."""
        view, head = _live_view(store), write_word(self.log.head, self.log.word_at(self.log.head)).encode()
        return view is not None and all(
            store.execute("HGET", view.checkpoint(partition), "word") == head for partition in range(PARTITIONS)
        )

    def _compare(self, store: FakeRedis) -> None:
        view = _live_view(store)
        assert view is not None
        prefix, fold = view.pattern()[:-1], self.log.fold(view)
        there = {key: value for key, value in store.contents().items() if key.startswith(prefix)}
        for partition in range(PARTITIONS):
            there.pop(view.checkpoint(partition))
        for key in there | fold:
            if there.get(key) != fold.get(key):
                self.wrong.append(f"{key} is {there.get(key)!r}, not {fold.get(key)!r}")


def _live_view(store: FakeRedis) -> View | None:
    raw = store.execute("GET", POINTER)
    return None if raw is None else msgspec.json.decode(raw, type=View)


def _is_of(partition: int | None, key: str) -> bool:
    return partition is None or f".{partition}}}" in key
