"""Rebuild, switch and undo under load: no error, no gap, no step back; and how a switch is announced."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import psycopg
import pytest

from commands.coordination.view_register import list_generations, set_state
from commands.db.identity import read_server_run
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.events import UserFollowed, UserUnfollowed
from commands.log import event_log as log
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.errors import NotSwitched
from projections.keys import LEASE_GROUPS, LogNames, View
from projections.loop import LoopTiming
from projections.projector.projector import Projector
from projections.rebuild import build
from projections.rebuild.rebuild import Builder, RebuildOptions
from projections.rebuild.switch import switch_readers
from projections.rebuild.throttle import Throttle
from projections.signals.job_queue import QueueSettings
from projections.signals.progress import READS_THE_LOG, Progress, progress_message
from projections.signals.wakeups import Listener, Wakeup
from projections.views import generations
from projections.views.feeder_record import store_of
from queries.follows import PageRequest, follow_state, page
from queries.reader import Reader
from tests.support.fixtures import Plain
from tests.support.live_view import FAST, ONLY_WOKEN, projecting, up_to_date_view
from tests.support.log_writes import append
from tests.support.queues import queue_of
from tests.support.rebuilds import NoWakeups, built, rebuilt
from tests.support.small_world import catch_up, people, projector_of, write
from tests.support.view_model import actual, expected, positions
from tests.support.waiting import until

Sql = psycopg.Connection[Any]
# The follower and the followed of the writing client; they have no other follows.
FAN, STAR = 3, 4


class Side:
    """What a web process does: it reads by the pointer it remembers, and waits for the views."""

    def __init__(self, redis: RedisClient, queue: QueueSettings) -> None:
        self.progress = Progress()
        self.reader = Reader(redis, self.progress)
        self.progress.subscribe(self.reader.profile_cache, self.reader.invalidate_numbers)
        self.listener = Listener(queue, LogNames.applied_channel, self.progress.on_message)
        self.reads = 0

    async def hammer(self, steady: dict[int, int]) -> None:
        """Read lists that never change, again and again: they are never short or empty, and never fail."""
        while True:
            for number, total in steady.items():
                found = await page(self.reader, "followers", number, PageRequest(100), as_written="x")
                assert (found.total, len(found.rows)) == (total, total)
                self.reads += 1

    async def write_and_read(self, engine: Engine, wakeup: Wakeup, other: "Side") -> None:
        """Follow or unfollow, wait until both processes know that it is visible, and read it in both."""
        follows = False
        while True:
            follows = not follows
            (written,) = await append(engine, FAN, STAR, UserFollowed() if follows else UserUnfollowed())
            wakeup.send(written.position)
            groups = [FAN % 8, STAR % 8]
            seen = await asyncio.gather(*[side.progress.wait(written.position, groups, 10) for side in (self, other)])
            assert all(seen), f"the progress to position {written.position} was never published"
            for side in (self, other):
                found = await follow_state(side.reader, FAN, STAR)
                assert (found.row is not None) == follows, (
                    f"position {written.position} was published and is not visible"
                )
                side.reads += 1


@asynccontextmanager
async def api(redis_url: str, queue_url: str) -> AsyncIterator[Side]:
    """Open a web process."""
    redis = open_redis(RedisClientSettings(redis_url))
    side = Side(redis, queue_of(queue_url))
    await side.listener.start()
    yield side
    await side.listener.close()
    await redis.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_switches_and_undos_under_load_show_no_error_and_no_step_back(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    database_url: str,
    redis_url: str,
    queue_url: str,
    workers: int,
) -> None:
    """P4, P5 and P6 at once: while views are rebuilt into other partitions and undone, lists are whole, and a follow
    that was published as visible is visible in every process."""
    numbers = await people(engine, 12)
    await write(engine, *[(fan, star) for star in (1, 2) for fan in numbers if fan not in (1, 2)])
    steady = {1: 10, 2: 10}
    queue, wakeup = queue_of(queue_url), Wakeup(queue_of(queue_url))
    async with AsyncExitStack() as stack:
        for _ in range(workers):
            own = create_engine(PostgresSettings(database_url, allow_async_commit=True))
            stack.push_async_callback(own.dispose)
            await stack.enter_async_context(projecting(own, redis, queue, FAST))
        one = await stack.enter_async_context(api(redis_url, queue_url))
        two = await stack.enter_async_context(api(redis_url, queue_url))
        await up_to_date_view(engine, redis)
        tasks = [asyncio.create_task(side.hammer(steady)) for side in (one, two)]
        tasks.append(asyncio.create_task(one.write_and_read(engine, wakeup, two)))

        async def while_all_goes_on(work: Any) -> View:
            doing = asyncio.create_task(work)
            await asyncio.wait({doing, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                assert not task.done(), task.exception()
            view: View = await doing
            before = one.reads, two.reads
            await until(lambda: min(one.reads - before[0], two.reads - before[1]) > 20)
            assert not any(task.done() for task in tasks)
            return view

        seen = [
            await while_all_goes_on(_with_builder(engine, redis, queue, partitions))
            for partitions in (64, None, 16, None, 64)
        ]
        assert len({view.generation for view in seen}) == 4
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last = await up_to_date_view(engine, redis)
        assert last == seen[-1] and actual(raw_redis, last) == expected(sql, last)
    await wakeup.close()


async def _with_builder(engine: Engine, redis: RedisClient, queue: QueueSettings, partitions: int | None) -> View:
    """Rebuild into ``partitions``, or undo for None."""
    async with Builder(engine, redis, queue) as builder:
        if partitions is None:
            return await builder.undo(lambda _: None)
        return await builder.rebuild(RebuildOptions(partitions=partitions, batch=20), lambda _: None)


async def test_switch_gives_up_when_a_partition_cannot_be_frozen(
    engine: Engine, redis: RedisClient, raw_redis: Plain
) -> None:
    """A repair holds a partition for ever: the switch changes nothing."""
    old = await projector_of(engine, redis)
    await catch_up(old)
    raw_redis.hset(old.view.checkpoint(1), "frozen", "other")
    new = Projector(engine, redis, View(2, 8), dict.fromkeys(range(8), 9))
    await generations.prepare(redis, new.view, None, 9)
    await new.load()
    with pytest.raises(NotSwitched):
        await switch_readers(engine, redis, NoWakeups(), new, try_s=0.05, tries_max=2)
    assert await generations.live_view(redis) == old.view
    held = [raw_redis.hget(old.view.checkpoint(partition), "frozen") for partition in range(old.view.partitions)]
    assert held == [None, b"other", None, None]


async def test_build_pauses_while_the_live_view_lags_and_moves(
    engine: Engine, redis: RedisClient, raw_redis: Plain
) -> None:
    """Not when it is up to date, and not for ever when no worker projects it."""
    numbers = await people(engine, 6)
    live = await projector_of(engine, redis)
    throttle = Throttle(engine, redis, lag_max_s=0.0, every_s=0.0)
    for fan in numbers[1:]:
        await write(engine, (fan, numbers[0]))
        assert await throttle.has_paused(), "lags and moves"
        await live.step(1)
        await live.write_checkpoints()
    await catch_up(live)
    assert not await throttle.has_paused(), "up to date"
    await write(engine, (numbers[1], numbers[2]))
    assert await throttle.has_paused(), "lags, and may move yet"
    stuck = Throttle(engine, redis, lag_max_s=0.0, every_s=0.0, stuck_s=-1.0)
    assert not await stuck.has_paused(), "lags, and does not move"
    await generations.clear_pointer(redis)
    assert not await Throttle(engine, redis).has_paused(), "no live view"


async def test_worker_publishes_no_progress_of_a_view_that_is_not_live(
    engine: Engine, redis: RedisClient, queue_url: str
) -> None:
    """A builder that dies between the switch and retiring the old view leaves a worker that still projects the old one.
    What it applies there is not visible, so it must not publish that as progress."""
    numbers = await people(engine, 4)
    queue, wakeup = queue_of(queue_url), Wakeup(queue_of(queue_url))
    published: list[tuple[int, int]] = []

    def on_message(message: bytes | None) -> None:
        if message not in (None, READS_THE_LOG):
            position, _, generation, *_ = msgspec.json.decode(message)
            published.append((position, generation))

    listener = Listener(queue, LogNames.applied_channel, on_message)
    await listener.start()
    async with projecting(engine, redis, queue, ONLY_WOKEN):
        old = await up_to_date_view(engine, redis)
        new = View(old.generation + 1, 8)
        async with build.BuildLease(engine, redis):  # or the worker, which has just built, may delete it as unknown
            await generations.prepare(redis, new, None, 0)
            assert await generations.switch(redis, new, 2**40)
        end = await write(engine, (numbers[0], numbers[1]))
        wakeup.send(end)
        assert await up_to_date_view(engine, redis) == new
        await until(lambda: (end, new.generation) in published)
        assert (end, old.generation) not in published
    await listener.close()
    await wakeup.close()


async def test_position_that_redis_lost_before_the_announcement_is_not_published(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings, wakeup: Wakeup
) -> None:
    """The builder is stopped between its last step and the announcement, while Redis loses its last writes."""
    view = await built(engine, redis, queue)
    saved = {key: raw_redis.dump(key) for key in raw_redis.scan_iter(match=view.pattern(), count=1000)}
    left = min(positions(raw_redis, view))
    published: list[bytes] = []
    listener = Listener(queue, LogNames.applied_channel, lambda message: published.append(message) if message else None)
    await listener.start()
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), 2**40))
    await projector.load()
    (lost,) = await append(engine, 70, 71, UserFollowed())
    while await projector.step():
        pass
    assert projector.position == lost.position > left
    raw_redis.delete(*raw_redis.scan_iter(match=view.pattern(), count=1000))
    for key, value in saved.items():
        raw_redis.restore(key, 0, value)
    await switch_readers(engine, redis, wakeup, projector)
    await until(lambda: published)
    await listener.close()
    store, word = await store_of(redis), (await log.words_at(engine, [left]))[left]
    assert word is not None
    run = await read_server_run(engine)
    message = progress_message(left, range(LEASE_GROUPS), view.generation, None, store=store, word=word, run=run)
    assert published == [message]


async def test_switch_is_announced_to_readers_and_workers(
    engine: Engine, redis: RedisClient, queue: QueueSettings, wakeup: Wakeup
) -> None:
    """So neither has to look at the pointer first."""
    view = await built(engine, redis, queue)
    progress, woken = Progress(), asyncio.Event()
    listeners = [
        Listener(queue, LogNames.applied_channel, progress.on_message),
        Listener(queue, LogNames.wake_channel, lambda message: woken.set() if message else None),
    ]
    for listener in listeners:
        await listener.start()
    new = await rebuilt(engine, redis, queue)
    await until(lambda: progress.generation == new.generation > view.generation and woken.is_set())
    assert progress.has_reached((await log.head(engine)).position, range(LEASE_GROUPS))
    for listener in listeners:
        await listener.close()


async def test_switch_is_in_the_register_before_it_is_announced(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """A queue that does not answer delays the announcement, and must not delay the register."""
    states: list[str] = []

    class SlowQueue(NoWakeups):
        async def publish(self, channel: Callable[[LogNames], str], messages: Iterable[bytes]) -> bool:
            states.extend(row.state for row in await list_generations(engine))
            return False

    view = await built(engine, redis, queue)
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), 2**40))
    await projector.load()
    await set_state(engine, view.generation, "building")
    await switch_readers(engine, redis, SlowQueue(), projector)
    assert states == ["live"]


async def test_switch_without_queue_is_found_by_workers_within_a_check(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """The message is lost: the switch has happened all the same, and the workers project the new view."""
    away = queue_of("unix:///nowhere.sock?db=0")
    async with projecting(engine, redis, queue, FAST):
        await people(engine, 4)
        await up_to_date_view(engine, redis)
        async with Builder(engine, redis, away) as builder:
            new = await builder.rebuild(RebuildOptions(), lambda _: None)
        await write(engine, (1, 2))
        assert await up_to_date_view(engine, redis) == new and actual(raw_redis, new) == expected(sql, new)


async def test_loop_without_queue_projects_the_new_view(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """A worker whose queue is away reads the log often, and goes on through a switch."""
    away = queue_of("unix:///nowhere.sock?db=0")
    async with projecting(engine, redis, away, LoopTiming(idle_s=600.0)):
        await people(engine, 4)
        old = await up_to_date_view(engine, redis)
        new = await rebuilt(engine, redis, queue)
        await write(engine, (1, 2))
        assert await up_to_date_view(engine, redis) == new != old and actual(raw_redis, new) == expected(sql, new)
