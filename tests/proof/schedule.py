"""One schedule of the simulation: a growing log, readers, workers that crash or pause, servers that lose data."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

import msgspec

from commands.coordination import leases
from commands.errors import LogUnavailable, Unavailable, ViewBehind, ViewsUnavailable, ViewUnavailable
from projections.client.client import RedisClient
from projections.errors import BatchRefused, Fenced, LogChanged, ViewLost
from projections.keys import POINTER, View, score, whole_lease_groups, write_word
from projections.projector.projector import Projector
from projections.signals.progress import READS_THE_LOG, Progress, progress_message
from projections.views import generations
from projections.views.generations import live_view
from queries.follows import FollowRow, PageRequest, follow_state, page
from queries.reader import MinPosition, Reader
from tests.proof.fake_log import FakeLog
from tests.proof.fake_network import FakeLogConnection, FakeRedisClient, NetworkFaults, SimulatedProcess
from tests.proof.fake_redis import FakeRedis
from tests.proof.simulated_web import SimulatedWeb, Write
from tests.proof.virtual_time import VirtualTimeLoop

PARTITIONS: Final = 2
USERS: Final = (2, 3, 4, 13)
LOGINS: Final = ("ada", "bob", "login2", "login3")
# Virtual seconds: the length of the busy phase, far more than the views need to catch up after it, and a loop's pause.
BUSY_S: Final = 2.0
CATCH_UP_TIMEOUT_S: Final = 60.0
IDLE_S: Final = 0.15
WEBS: Final = 2
# Those of the users who write and read what they have written.
CALLERS: Final = (2, 13)
OUTAGES: Final = (LogUnavailable, ViewsUnavailable)


class Schedule:
    """One run of the simulated service; its seed decides everything."""

    def __init__(self, seed: int, fake_redis: FakeRedis | None = None) -> None:
        self.seed, self.loop = seed, VirtualTimeLoop()
        self.rng = random.Random(seed)
        self.network = NetworkFaults(self.rng)
        self.fake_redis = FakeRedis() if fake_redis is None else fake_redis
        self.log = FakeLog()
        self.wrong: list[str] = []
        self.tally = {"batches applied": 0, "faults": 0, "reads": 0, "own writes answered": 0, "own reads answered": 0}
        self._generation = 0
        self._builder: asyncio.Task[Any] | None = None
        self._workers: list[tuple[asyncio.Task[None], SimulatedProcess]] = []
        self._saved: dict[str, Any] | None = None
        self._webs: list[SimulatedWeb] = []

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
        self._start_worker()
        if await self._until(lambda: self._live_view() is not None):
            self.network.loss_rate = loss_rate
            self._webs = [self._web() for _ in range(WEBS)]
            for web in self._webs:
                await web.tail.start()
            callers = [self._call(caller) for caller in CALLERS]
            await asyncio.gather(self._write(), self._read(), self._read(), *callers, self._inject_faults())
            for web in self._webs:
                await web.tail.close()
            self._webs = []  # they refer back to here, and hold 8 MB each
            self.network.loss_rate = 0.0
            self._start_worker()
        if not await self._until(self._is_caught_up):
            self.wrong.append(f"the views do not catch up: {self.fake_redis.contents()}")
        else:
            self._compare()
        for task, _ in self._workers:
            task.cancel()
        await asyncio.gather(*[task for task, _ in self._workers], return_exceptions=True)

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait for the condition; return False if it does not come true in time."""
        end = self.loop.time() + CATCH_UP_TIMEOUT_S
        while not condition() and self.loop.time() < end:  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(IDLE_S)
        return condition()

    # -- the log grows

    async def _write(self) -> None:
        rng, log = self.rng, self.log
        for _ in range(rng.randrange(4, 12)):
            await asyncio.sleep(rng.random() * BUSY_S / 6)
            for _ in range(rng.choice((1, 1, 1, 4))):
                pair = cast("tuple[int, int]", tuple(rng.sample(USERS, 2)))
                what = rng.random()
                if what < 0.8:
                    log.toggle_follow(pair, notifications=rng.random() < 0.3)
                elif what < 0.95:
                    log.rename(pair[0], rng.choice(LOGINS))
                else:
                    log.append_unreadable(pair)

    # -- workers

    def _start_worker(self) -> None:
        """Start a worker with a higher fence than any before."""
        process = SimulatedProcess()
        self._workers.append((self.loop.create_task(self._work(process, self.log.next_fence())), process))

    async def _work(self, process: SimulatedProcess, fence: int) -> None:
        redis, log_connection = self._redis_client(process), FakeLogConnection(self.log, self.network, process)
        lost, changed = False, cast("View | None", None)
        while True:
            try:
                await self._read_log(log_connection)
                if changed is not None:  # as the service's loop does
                    await generations.clear_pointer(redis, changed)
                    await generations.invalidate(redis, changed)
                    changed = None
                view = await live_view(redis)
                if view is None or lost:
                    await self._build(redis, log_connection, fence, view)
                    lost = False
                else:
                    await self._project(redis, log_connection, fence, view)
            except Fenced:
                return  # the service's worker would now ask for its lease, which another worker has
            except LogChanged as error:
                changed = error.view
            except ViewLost:
                lost = True
            except (*OUTAGES, BatchRefused):
                await asyncio.sleep(IDLE_S)

    async def _project(self, redis: RedisClient, log_connection: Any, fence: int, view: View) -> None:
        projector = Projector(log_connection, redis, view, dict.fromkeys(range(PARTITIONS), fence))
        limit = self.rng.choice((1, 2, 5, 50))
        try:
            await projector.load()
            checked = self.network.restarts
            while True:
                if not await projector.step(limit):
                    await projector.write_checkpoints()
                    await asyncio.sleep(IDLE_S)
                    checked = self.network.restarts
                    await projector.check()
                    await projector.refresh_parked()
                if await live_view(redis) != view:
                    return
                if checked == self.network.restarts:  # else something may be lost
                    self._publish(_message_of(projector))
                    projector.changed = set()
        finally:
            await projector.close()

    async def _build(self, redis: RedisClient, log_connection: Any, fence: int, lost: View | None) -> None:
        """Build a new generation unless another worker does; delete the lost one key by key."""
        if self._builder is not None and not self._builder.done():
            await asyncio.sleep(IDLE_S)
            return
        self._builder = asyncio.current_task()
        try:
            found = {} if lost is None else await generations.checkpoints(redis, lost, range(PARTITIONS))
            if lost is not None and None not in found.values():
                return
            self._generation += 1
            for_switch = await leases.next_fence(log_connection)
            view = View(self._generation, PARTITIONS)
            await generations.prepare(redis, view, None, fence)
            projector = Projector(log_connection, redis, view, dict.fromkeys(range(PARTITIONS), fence))
            try:
                await projector.load()
                while projector.position < self.log.head:
                    while await projector.step(self.rng.choice((3, 50))):
                        self._publish(READS_THE_LOG)
                    await projector.write_checkpoints()
            finally:
                await projector.close()
            if await generations.switch(redis, view, for_switch, projector.position) and lost is not None:
                await generations.invalidate(redis, lost)
                for name in [name for name in self.fake_redis.key_names() if name.startswith(lost.pattern()[:-1])]:
                    await generations.delete_keys(redis, [name])
        finally:
            self._builder = None

    async def _read_log(self, log_connection: FakeLogConnection) -> None:
        """Say that there is a worker that can read the log, as each turn of the service's loop does."""
        await log_connection.query(lambda: None)
        self._publish(READS_THE_LOG)

    def _publish(self, message: bytes) -> None:
        """Send a message to the web processes; each may miss it, or get it late."""
        for web in self._webs:
            if not self.network.loses():
                self.loop.call_later(self.network.delay_s(), web.progress.on_message, message)

    # -- faults

    async def _inject_faults(self) -> None:
        rng = self.rng
        for _ in range(rng.choice((0, 1, 2, 4, 6))):
            await asyncio.sleep(rng.random() * BUSY_S / 3)
            self.tally["faults"] += 1
            fault: Coroutine[Any, Any, None] = rng.choice(
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
            )()
            await fault

    async def _crash_workers(self) -> None:
        """Crash all workers at once, at whatever step they are; commands that they have sent still arrive."""
        for task, _ in self._workers:
            task.cancel()
        await asyncio.sleep(self.rng.random() * IDLE_S)
        self._start_worker()

    async def _stop_workers(self) -> None:
        """Leave the views without a worker until commands are answered without them."""
        for task, _ in self._workers:
            task.cancel()
        await asyncio.sleep(self.rng.random() * 2 * BUSY_S)
        self._start_worker()

    async def _pause_workers(self) -> None:
        """Pause the workers and start a successor; later they continue with the state that they had."""
        for _, process in self._workers:
            process.stopped_until = self.loop.time() + self.rng.random() * BUSY_S
        self._start_worker()

    async def _start_second_worker(self) -> None:
        """Start a successor while the worker runs."""
        self._start_worker()

    async def _save_redis(self) -> None:
        """Remember what Redis holds; later writes may be lost, since Redis acknowledges them before they are safe."""
        self._saved = self.fake_redis.dump()

    async def _restore_redis(self) -> None:
        """Lose the writes since the last save, of all partitions or (as in a cluster) of one."""
        if self._saved is None:
            return
        partition = self.rng.choice((None, *range(PARTITIONS)))
        self.network.restarts += 1  # a restart breaks the open connections
        for web in self._webs:
            web.tail.on_connection()
        self.fake_redis.delete_keys(name for name in self.fake_redis.key_names() if _is_of(partition, name))
        self.fake_redis.restore({name: value for name, value in self._saved.items() if _is_of(partition, name)})

    async def _lose_last_writes(self) -> None:
        """Lose what all keys got in the last second at most."""
        await self._save_redis()
        await asyncio.sleep(self.rng.random())
        await self._restore_redis()

    async def _empty_redis(self) -> None:
        """Delete all keys, or (as in a cluster) those of one partition."""
        partition = self.rng.choice((None, *range(PARTITIONS)))
        self._saved = None
        self.fake_redis.delete_keys(name for name in self.fake_redis.key_names() if _is_of(partition, name))

    async def _leave_partition_frozen(self) -> None:
        """Freeze a partition and die, as a switch or a repair that is killed."""
        view = self._live_view()
        checkpoint = "" if view is None else view.checkpoint(self.rng.randrange(PARTITIONS))
        if view is not None and self.fake_redis.execute("HGET", checkpoint, "position") is not None:
            self.fake_redis.execute("HSET", checkpoint, "frozen", f"{self.rng.random()}")

    async def _lose_tail_of_log(self) -> None:
        """Fail over to a standby that lacks the last events; users stay registered."""
        self.log.lose_tail(self.rng.randrange(len(USERS), self.log.head + 1))

    async def _stop_log(self) -> None:
        """Let the log refuse all queries, or not answer them, for a while."""
        self.network.log_refuses = self.rng.random() < 0.5
        self.network.log_away_until = self.loop.time() + self.rng.random() * 2 * BUSY_S

    async def _stop_web(self) -> None:
        """Let the answers of all servers reach a web process late: its looks are old, or fail."""
        if self._webs:
            self.rng.choice(self._webs).process.stopped_until = self.loop.time() + self.rng.random() * BUSY_S

    async def _cut_off_web(self) -> None:
        """Let a web process alone not reach the log."""
        if self._webs:
            self.rng.choice(self._webs).process.cut_off_until = self.loop.time() + self.rng.random() * 2 * BUSY_S

    # -- readers

    async def _read(self) -> None:
        rng, redis = self.rng, self._redis_client(SimulatedProcess())
        reader = Reader(redis, Progress(), clock=self.loop.time)
        for _ in range(rng.randrange(2, 8)):
            await asyncio.sleep(rng.random() * BUSY_S / 3)
            self.tally["reads"] += 1
            min_position = MinPosition(self.log.head if rng.random() < 0.2 else 0, strict=True)
            try:
                if rng.random() < 0.6:
                    await self._check_follow_status(reader, min_position)
                else:
                    await self._check_page(reader, min_position)
            except (ViewUnavailable, ViewBehind, ViewsUnavailable):
                pass  # 503
            except Exception as error:
                self.wrong.append(f"a reader gets {type(error).__name__}: {error}")

    # -- callers who have written

    def _web(self) -> SimulatedWeb:
        process = SimulatedProcess()
        log_connection = FakeLogConnection(self.log, self.network, process)
        return SimulatedWeb(process, self._redis_client(process), log_connection, self.loop.time)

    async def _call(self, caller: int) -> None:
        """Write, and read what was written, each through any web process."""
        told = dict[int, Write]()
        for _ in range(self.rng.randrange(5, 25)):
            await asyncio.sleep(self.rng.random() * self.rng.choice((0.02, 0.2, 1.0)))
            other = self.rng.choice([number for number in USERS if number != caller])
            web = self.rng.choice(self._webs)
            try:
                if self.rng.random() < 0.4 and (caller, other) not in self.log.unreadable_pairs:
                    told.pop(other, None)  # without an answer, either may be seen
                    told[other] = await web.toggle_follow((caller, other), notifications=self.rng.random() < 0.3)
                    self.tally["own writes answered"] += 1
                else:
                    await self._check_own_read(web, caller, other, told.get(other))
            except Unavailable:
                pass  # 503
            except Exception as error:
                self.wrong.append(f"caller {caller} gets {type(error).__name__}: {error}")

    async def _check_own_read(self, web: SimulatedWeb, caller: int, other: int, told: Write | None) -> None:
        found = await follow_state(web.reader, caller, other, min_position=web.request_of(caller))
        self.tally["own reads answered"] += 1
        value = None if found.row is None else score(found.row.created_at, found.row.notifications)
        if told is None or not self.log.has(told.position, told.word):
            return
        possible = self.log.scores_after(told.pair, told.position, told.word)
        if value not in possible:
            self.wrong.append(f"{caller} sees {value} for {other}, not {possible}, after {told} was answered: {found}")

    async def _check_follow_status(self, reader: Reader, min_position: MinPosition) -> None:
        one, other = self.rng.sample(USERS, 2)
        found = await follow_state(reader, one, other, min_position=min_position)
        value = None if found.row is None else score(found.row.created_at, found.row.notifications)
        possible = self.log.scores_since((one, other), found.position)
        if value not in possible or not found.followed_exists or found.position < min_position.position:
            self.wrong.append(f"{one} follows {other} since {value}, not {possible}, in {found}")

    async def _check_page(self, reader: Reader, min_position: MinPosition) -> None:
        number, side = self.rng.choice(USERS), self.rng.choice(("following", "followers"))
        found = await page(reader, cast(Any, side), number, PageRequest(10), as_written="", min_position=min_position)
        possible = [
            [FollowRow(other, value >> 1, bool(value & 1)) for value, other in reversed(rows)]
            for rows in self.log.lists_at(number, side, found.position)
        ]
        is_true = found.rows in possible and found.total == len(found.rows)
        if not is_true or found.position < min_position.position:
            self.wrong.append(f"{side} of {number} at {found.position} are {found}, not {possible[0]}")

    # -- what must hold

    def _redis_client(self, process: SimulatedProcess) -> RedisClient:
        return cast(RedisClient, FakeRedisClient(self.fake_redis, self.network, process, self.loop, self._applied))

    def _applied(self, checkpoint: str, expected: Any, new: Any) -> None:
        self.tally["batches applied"] += 1
        if int(new) < int(expected):
            self.wrong.append(f"{checkpoint} goes back from {expected} to {new}")

    def _live_view(self) -> View | None:
        raw = self.fake_redis.execute("GET", POINTER)
        return None if raw is None else msgspec.json.decode(raw, type=View)

    def _is_caught_up(self) -> bool:
        """Return whether all partitions are at the log's end, and have read it in the history that there is now."""
        view, head = self._live_view(), write_word(self.log.head, self.log.word_at(self.log.head)).encode()
        return view is not None and all(
            self.fake_redis.execute("HGET", view.checkpoint(partition), "word") == head
            for partition in range(PARTITIONS)
        )

    def _compare(self) -> None:
        view = self._live_view()
        assert view is not None
        prefix, fold = view.pattern()[:-1], self.log.fold(view)
        there = {key: value for key, value in self.fake_redis.contents().items() if key.startswith(prefix)}
        for partition in range(PARTITIONS):
            there.pop(view.checkpoint(partition))
        for key in there | fold:
            if there.get(key) != fold.get(key):
                self.wrong.append(f"{key} is {there.get(key)!r}, not {fold.get(key)!r}")


def _message_of(projector: Projector) -> bytes:
    groups, generation = whole_lease_groups(projector.view, projector.fences), projector.view.generation
    at, word = projector.checkpointed, projector.history.word(projector.position)
    return progress_message(projector.position, groups, generation, projector.changed, at, word=word)


def _is_of(partition: int | None, key: str) -> bool:
    return partition is None or f".{partition}}}" in key
