"""The projection loop: what is committed is visible at once, what is lost is healed, an idle worker is quiet."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import event

from commands.coordination import leases, pause
from commands.db.identity import read_server_run
from commands.db.postgres import Engine
from commands.events import UserFollowed, UserUnfollowed
from commands.log import event_log as log
from projections.client.client import RedisClient, Script, ScriptCall
from projections.client.node import Node
from projections.errors import Fenced
from projections.keys import LEASE_GROUPS, LogNames, View, lease_group_of
from projections.loop import LoopTiming, ProjectionLoop
from projections.projector.apply import APPLY
from projections.projector.projector import Projector
from projections.rebuild.build import BuildLease
from projections.signals.job_queue import QueueSettings
from projections.signals.progress import READS_THE_LOG, Progress
from projections.signals.wakeups import Listener, Wakeup
from projections.views import generations
from tests.support.fixtures import Plain
from tests.support.live_view import FAST, ONLY_WOKEN, made_store, projecting, up_to_date_view
from tests.support.log_writes import append, rows
from tests.support.lost_tail import lose_tail
from tests.support.queues import queue_of
from tests.support.small_world import populate
from tests.support.view_model import actual, expected, positions
from tests.support.waiting import until

# The names of all leases that a worker takes.
GROUPS = [f"{leases.GROUP_PREFIX}{group}" for group in range(LEASE_GROUPS)]
Sql = psycopg.Connection[Any]


@pytest.fixture
def queue(queue_url: str) -> QueueSettings:
    """The address of the wake-ups."""
    return queue_of(queue_url)


class Flushing:
    """A client whose Redis is emptied once, after a build's first batch."""

    def __init__(self, redis: RedisClient, raw_redis: Plain) -> None:
        self._redis, self._raw_redis = redis, raw_redis
        self._partitions: set[str] = set()
        self.done = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run the script; the second batch for a partition finds Redis empty."""
        if script is APPLY and keys[0] in self._partitions and not self.done:
            self.done = True
            self._raw_redis.flushdb()
        if script is APPLY:
            self._partitions.add(keys[0])
        return await self._redis.run(script, keys, arguments)

    async def run_each(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run the calls one by one, as for a cluster."""
        return [await self.run(script, keys, arguments) for keys, arguments in calls]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


def listening(engine: Engine) -> list[str]:
    """Return the list to which each statement of this engine is added from now on."""
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    return statements


async def looks_for_a_pause(statements: list[str], times: int) -> None:
    """Return when the loop has looked ``times`` more often; the first look may have begun before."""
    seen = len(statements)
    await until(lambda: sum("FROM pauses" in text for text in statements[seen:]) >= times)


async def test_first_start_builds_the_view_and_keeps_it_up_to_date(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    await populate(engine)
    async with projecting(engine, redis, queue, FAST):
        view = await up_to_date_view(engine, redis)
        assert actual(raw_redis, view) == expected(sql, view)
        await append(engine, 70, 71, UserFollowed())
        assert await up_to_date_view(engine, redis) == view
        assert actual(raw_redis, view) == expected(sql, view)


async def test_committed_event_is_visible_and_published_with_the_wake_up(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    """The loop does not look without a wake-up here."""
    wakeup, progress = Wakeup(queue), Progress()
    listener = Listener(queue, LogNames.applied_channel, progress.on_message)
    await listener.start()
    async with projecting(engine, redis, queue, ONLY_WOKEN):
        await until(lambda: generations.live_view(redis))
        for version in range(5):
            fact = UserUnfollowed() if version % 2 else UserFollowed()
            (written,) = await append(engine, 70, 71, fact)
            wakeup.send(written.position)
            assert await progress.wait(written.position, range(LEASE_GROUPS), 10)
            view = await generations.live_view(redis)
            assert view is not None and raw_redis.exists(view.following(70)) == (version % 2 == 0)
            word = (await log.head(engine)).word or 0
            assert progress.highest_strange(lambda _, word=word: word, 0) == 0  # type: ignore[misc]
            assert progress.highest_strange(lambda _, word=word: ~word, 0) == written.position  # type: ignore[misc]
    await listener.close()
    await wakeup.close()


async def test_wake_up_without_a_new_event_publishes_the_progress(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """A reader asks for it when its own record is unsure, for example after Redis was away."""
    wakeup, progress = Wakeup(queue), Progress()
    listener = Listener(queue, LogNames.applied_channel, progress.on_message)
    await listener.start()
    async with projecting(engine, redis, queue, ONLY_WOKEN) as loop:
        (written,) = await append(engine, 70, 71, UserFollowed())
        await up_to_date_view(engine, redis)
        await until(lambda: loop._woken._waiters)
        progress.clear()
        wakeup.send(written.position)
        assert await progress.wait(written.position, range(LEASE_GROUPS), 10)
    await listener.close()
    await wakeup.close()


async def test_emptied_redis_is_healed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """The view comes back whole, as another generation."""
    await populate(engine)
    async with projecting(engine, redis, queue, FAST):
        before = await up_to_date_view(engine, redis)
        raw_redis.flushdb()
        after = await up_to_date_view(engine, redis)
        assert after.generation > before.generation and actual(raw_redis, after) == expected(sql, after)


async def test_redis_emptied_during_the_build_is_healed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """A build that is lost half-way does not end the loop."""
    await populate(engine)
    flushing = Flushing(redis, raw_redis)
    async with projecting(engine, flushing, queue, FAST) as loop:  # type: ignore[arg-type]
        view = await up_to_date_view(engine, redis)
        assert flushing.done and actual(raw_redis, view) == expected(sql, view) and loop is not None


async def test_lost_partition_is_healed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """As in a cluster that has lost one server."""
    await populate(engine)
    async with projecting(engine, redis, queue, FAST):
        before = await up_to_date_view(engine, redis)
        for key in raw_redis.scan_iter(match=f"{{g{before.generation}.5}}*", count=1000):
            raw_redis.delete(key)
        await until(lambda: _moved_on(redis, before))
        after = await up_to_date_view(engine, redis)
        assert actual(raw_redis, after) == expected(sql, after)


async def test_lost_writes_are_repaired_by_a_check(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Data and checkpoints are set back together, and no new event shows it."""
    await populate(engine)
    async with projecting(engine, redis, queue, FAST):
        view = await up_to_date_view(engine, redis)
        saved = {key: raw_redis.dump(key) for key in raw_redis.scan_iter(match=view.pattern(), count=1000)}
        for other in range(71, 90):
            await append(engine, 70, other, UserFollowed())
        await up_to_date_view(engine, redis)
        raw_redis.delete(*raw_redis.scan_iter(match=view.pattern(), count=1000))
        for key, value in saved.items():
            raw_redis.restore(key, 0, value)
        assert max(positions(raw_redis, view)) < (await log.head(engine)).position
        assert await up_to_date_view(engine, redis) == view
        assert actual(raw_redis, view) == expected(sql, view)


async def test_progress_after_a_disconnect_is_published_after_a_check(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    queue: QueueSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis went and came back while no command was on its way, and lost its last writes. The partitions are checked
    before progress is published again, also when there is nothing new to project."""
    done: list[str] = []
    for place, name in ((Projector, "check"), (Wakeup, "publish")):
        monkeypatch.setattr(place, name, noting(done, getattr(place, name)))
    wakeup, progress = Wakeup(queue), Progress()
    listener = Listener(queue, LogNames.applied_channel, progress.on_message)
    await listener.start()
    async with projecting(engine, redis, queue, ONLY_WOKEN):
        view = await up_to_date_view(engine, redis)
        for others in ([(80, 81)], []):
            saved = {key: raw_redis.dump(key) for key in raw_redis.scan_iter(match=view.pattern(), count=1000)}
            (lost,) = await append(engine, 70, 71 + len(others), UserFollowed())
            wakeup.send(lost.position)
            assert await progress.wait(lost.position, range(LEASE_GROUPS), 10)
            await up_to_date_view(engine, redis)
            assert isinstance(redis._target, Node) and redis._target._connection is not None
            redis._target._connection.abort()
            raw_redis.delete(*raw_redis.scan_iter(match=view.pattern(), count=1000))
            for key, value in saved.items():
                raw_redis.restore(key, 0, value)
            progress.clear()
            done.clear()
            position = lost.position
            for one, other in others:
                (written,) = await append(engine, one, other, UserFollowed())
                position = written.position
            wakeup.send(position)
            assert await progress.wait(position, range(LEASE_GROUPS), 10)
            assert actual(raw_redis, view) == expected(sql, view)
            assert done[:2] == ["check", "publish"]
    await listener.close()
    await wakeup.close()


def noting(done: list[str], real: Any) -> Any:
    """Return a method that records its calls, but those with the message that says nothing about progress."""

    async def called(*arguments: Any) -> Any:
        if [READS_THE_LOG] not in arguments:
            done.append(real.__name__)
        return await real(*arguments)

    return called


async def test_view_of_a_log_that_was_restored_is_replaced(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """The log ends before the position of the views: readers get 503, then the older truth."""
    await populate(engine)
    async with projecting(engine, redis, queue, FAST):
        before = await up_to_date_view(engine, redis)
        lose_tail(sql, 20)
        await until(lambda: _moved_on(redis, before))
        after = await up_to_date_view(engine, redis)
        follows = {name for name in actual(raw_redis, after) if ":follow" in name}
        assert follows == {name for name in expected(sql, after) if ":follow" in name}


async def test_higher_fence_of_a_tool_is_overtaken(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """The lease is still this worker's, so the loop takes a new fence and goes on."""
    async with projecting(engine, redis, queue, FAST):
        view = await up_to_date_view(engine, redis)
        (fence,) = rows(sql, "SELECT nextval('fences')")[0]
        for partition in range(view.partitions):
            raw_redis.hset(view.checkpoint(partition), "fence", fence)
        await append(engine, 70, 71, UserFollowed())
        assert await up_to_date_view(engine, redis) == view
        assert actual(raw_redis, view) == expected(sql, view)


async def test_worker_takes_over_the_partitions_of_one_that_ended(
    engine: Engine, other_engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Both project; when one has ended, the other projects everything."""
    async with projecting(engine, redis, queue, FAST) as one:
        async with projecting(other_engine, redis, queue, FAST):
            await until(lambda: _halves(engine))
            await populate(engine)
            view = await up_to_date_view(engine, redis)
            assert actual(raw_redis, view) == expected(sql, view)
        await until(lambda: len(one.leases.fences) == LEASE_GROUPS)
        await append(engine, 70, 71, UserFollowed())
        assert actual(raw_redis, await up_to_date_view(engine, redis)) == expected(sql, view)


async def test_worker_that_was_seen_stopped_is_fenced(
    engine: Engine, other_engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """It still uses its old fences; its writes are refused, and the view does not change."""
    await populate(engine)
    async with projecting(engine, redis, queue, FAST) as sleeper:
        await up_to_date_view(engine, redis)
        stale = dict(sleeper.leases.fences)
    sql.execute("DELETE FROM lease_owners")
    async with projecting(other_engine, redis, queue, FAST):
        await append(engine, 70, 71, UserFollowed())
        view = await up_to_date_view(engine, redis)
        before = actual(raw_redis, view)
        fences = {partition: stale[f"group:{lease_group_of(partition)}"] for partition in range(view.partitions)}
        zombie = Projector(engine, redis, view, fences)
        with pytest.raises(Fenced):
            await zombie.load()
        with pytest.raises(Fenced):
            await zombie.check()
        assert actual(raw_redis, view) == before == expected(sql, view)


async def test_paused_projection_stays_until_it_is_resumed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Afterwards the view catches up."""
    statements = listening(engine)
    async with projecting(engine, redis, queue, FAST) as loop:
        view = await up_to_date_view(engine, redis)
        await pause.pause_projection(engine, "ann", "a test")
        await looks_for_a_pause(statements, 2)
        (written,) = await append(engine, 70, 71, UserFollowed())
        loop.wake()
        await looks_for_a_pause(statements, 2)
        assert written.position not in positions(raw_redis, view)
        await pause.resume_projection(engine)
        await up_to_date_view(engine, redis)
        assert actual(raw_redis, view) == expected(sql, view)


@pytest.mark.parametrize("why", ["idle", "paused", "no lease", "the pointer is away"])
async def test_worker_that_can_read_the_log_publishes_a_message_at_least_once_a_second(
    engine: Engine, redis: RedisClient, queue: QueueSettings, why: str
) -> None:
    """Web processes that cannot read the log themselves know from it that others can."""
    progress = Progress()
    listener = Listener(queue, LogNames.applied_channel, progress.on_message)
    async with projecting(engine, redis, queue):
        await up_to_date_view(engine, redis)
    if why == "paused":
        await pause.pause_projection(engine, "ann", "a test")
    elif why == "no lease":
        await leases.acquire_share(engine, GROUPS, uuid4(), store=await made_store(engine, redis))
    await listener.start()
    async with projecting(engine, redis, queue) as loop:
        if why == "the pointer is away":
            await until(lambda: loop.position is not None)
            loop._pointer._retry_at = float("inf")
        heard = list[float]()
        while len(heard) < 4:
            before = progress.heard_at
            await until(lambda: progress.heard_at > before)  # noqa: B023 - called at once
            heard.append(progress.heard_at)
    assert all(later - earlier < 1.5 for earlier, later in pairwise(heard)), heard
    await listener.close()


async def test_messages_name_the_server_of_the_latest_batch(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """Behind a pooler, no connection of the worker breaks when Postgres is restarted."""
    progress = Progress()
    progress.server_run = await read_server_run(engine)
    listener = Listener(queue, LogNames.applied_channel, progress.on_message)
    async with projecting(engine, redis, queue) as loop:
        await up_to_date_view(engine, redis)
        await until(lambda: loop._before is not None)
        assert loop._before is not None
        loop._before.batches.run = "the server before"
        await listener.start()
        (written,) = await append(engine, 20, 21, UserFollowed())
        await until(lambda: progress.has_reached(written.position, range(LEASE_GROUPS)))
        assert loop._before.batches.run == loop._feeding.confirmed_run == progress.server_run
    await listener.close()


@pytest.mark.parametrize("why", ["paused", "no lease"])
async def test_worker_without_work_runs_few_statements(
    engine: Engine,
    other_engine: Engine,
    redis: RedisClient,
    queue: QueueSettings,
    why: str,
) -> None:
    """A wake-up does not make it ask Postgres again and again."""
    if why == "paused":
        await pause.pause_projection(engine, "ann", "a test")
    else:
        await leases.acquire_share(engine, GROUPS, uuid4(), store=await made_store(engine, redis))
    statements = listening(other_engine)
    loop = ProjectionLoop(other_engine, redis, queue, LoopTiming(renew_s=0.2))
    loop.wake()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await loop.run()
    await loop.close()
    [(statement, times)] = Counter(statements).most_common(1)  # a start has some thirty statements, few of them twice
    assert times < 15, f"{times} times in 0.3 s: {statement}"


def tries_to_build(engine: Engine) -> list[str]:
    """Return the list to which the name of the build lease is added each time it is asked for from now on."""
    tries: list[str] = []

    def note(*about: Any) -> None:
        if isinstance(about[3], dict) and about[3].get("name") == leases.BUILD_LEASE:
            tries.append(leases.BUILD_LEASE)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    return tries


async def test_refused_build_is_tried_again_after_a_pause_only(
    engine: Engine, other_engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """Another process builds the view; the pause is longer than the test here."""
    tries = tries_to_build(other_engine)
    await made_store(engine, redis)
    async with BuildLease(engine, redis), projecting(other_engine, redis, queue, ONLY_WOKEN):
        await until(lambda: tries)
        with pytest.raises(AssertionError, match="not true"):
            await until(lambda: len(tries) > 1, limit_s=0.5)


async def test_view_that_another_process_builds_is_logged_once(
    engine: Engine, other_engine: Engine, redis: RedisClient, queue: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """However often the loop tries. A view that is lost once more is another line, whoever has built it meanwhile."""
    caplog.set_level(logging.INFO)
    lines = "there is no view yet: a build begins, here or in another worker", "another process is building the view"
    tries = tries_to_build(other_engine)
    await made_store(engine, redis)
    async with projecting(other_engine, redis, queue, FAST):
        async with BuildLease(engine, redis):
            await until(lambda: len(tries) > 3)
            assert [caplog.messages.count(line) for line in lines] == [1, 1]
        for times in (2, 3):
            await up_to_date_view(engine, redis)
            await append(engine, 70, 71, UserFollowed() if times == 2 else UserUnfollowed())
            view = await up_to_date_view(engine, redis)  # the loop has looked at the whole view
            lost = f"partitions [0] of generation {view.generation} are lost: a build begins, here or elsewhere"
            async with BuildLease(engine, redis):
                await redis.call("DEL", view.checkpoint(0))
                await until(lambda lost=lost: lost in caplog.messages)  # type: ignore[misc]
                await until(lambda times=times: caplog.messages.count(lines[1]) == times)  # type: ignore[misc]


async def test_loop_projects_the_view_that_the_pointer_names(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Also after readers were switched to another generation."""
    await populate(engine)
    async with projecting(engine, redis, queue, FAST):
        await up_to_date_view(engine, redis)
        other = View(50, 16)
        async with BuildLease(engine, redis):  # or the worker, which has just built, may delete it as unknown
            (fence,) = rows(sql, "SELECT nextval('fences')")[0]
            await generations.prepare(redis, other, None, 0)
            await generations.switch(redis, other, fence)
        assert await up_to_date_view(engine, redis) == other
        assert actual(raw_redis, other) == expected(sql, other)


async def test_switch_is_noticed_with_the_next_wake_up(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Not only with the check once a second, which is turned off here."""
    async with projecting(engine, redis, queue, ONLY_WOKEN) as loop:
        await up_to_date_view(engine, redis)
        other = View(50, 16)
        async with BuildLease(engine, redis):
            (fence,) = rows(sql, "SELECT nextval('fences')")[0]
            await generations.prepare(redis, other, None, 0)
            await generations.switch(redis, other, fence)
            await append(engine, 70, 71, UserFollowed())
            loop.wake()
            assert await up_to_date_view(engine, redis) == other
            assert actual(raw_redis, other) == expected(sql, other)


async def test_cancelled_loop_ends_at_once(engine: Engine, redis: RedisClient, queue: QueueSettings) -> None:
    """Also when a wake-up arrives at the same moment."""
    loop = ProjectionLoop(engine, redis, queue)
    task = asyncio.create_task(loop.run())
    await until(lambda: generations.live_view(redis))
    await until(lambda: loop._woken._waiters)
    loop.wake()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    still_running = task not in done
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    await loop.close()
    assert not still_running and task.cancelled()


async def test_closed_loop_has_released_its_leases(engine: Engine, redis: RedisClient, queue: QueueSettings) -> None:
    """A successor need not wait."""
    async with projecting(engine, redis, queue, FAST):
        await until(lambda: generations.live_view(redis))
        held = {lease.name for lease in await leases.list_leases(engine)}
        assert {f"group:{group}" for group in range(LEASE_GROUPS)} <= held
    assert await leases.list_leases(engine) == []


async def _moved_on(redis: RedisClient, before: View) -> bool:
    return (await generations.live_view(redis)) not in (before, None)


async def _halves(engine: Engine) -> bool:
    owners = [lease.owner for lease in await leases.list_leases(engine)]
    return sorted(owners.count(owner) for owner in set(owners)) == [LEASE_GROUPS // 2, LEASE_GROUPS // 2]
