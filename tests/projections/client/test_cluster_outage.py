"""A master of a cluster is gone, and so is its replica: requests that need it get 503, and others notice nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable, ViewUnavailable
from commands.events import UserFollowed
from commands.log import event_log as log
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import LEASE_GROUPS, POINTER, LogNames, View, lease_group_of
from projections.signals.job_queue import QueueSettings
from projections.signals.progress import Progress, progress_message
from projections.signals.wakeups import Listener, Wakeup
from projections.views import generations
from projections.views.pointer import LivePointer
from queries.follows import follow_state
from queries.reader import Reader
from queries.reader_limits import ReaderLimits
from tests.support import view_model
from tests.support.clock import Clock
from tests.support.cluster_contents import held, partitions_of
from tests.support.live_view import projecting, up_to_date_view
from tests.support.log_writes import Connection, append
from tests.support.queues import queue_of
from tests.support.small_world import people, write
from tests.support.valkey_cluster import ValkeyCluster, _cluster, cluster
from tests.support.waiting import until

__all__ = ["_cluster", "cluster"]


@pytest.fixture
async def redis(cluster: ValkeyCluster) -> AsyncIterator[RedisClient]:
    """The Redis client of a process, on an empty cluster."""
    opened = open_redis(RedisClientSettings(cluster.url))
    yield opened
    await opened.close()


@asynccontextmanager
async def running_loop(engine: Engine, cluster: ValkeyCluster, queue: QueueSettings) -> AsyncIterator[None]:
    """A worker's projection loop, with a Redis client of its own; it must not end by itself."""
    redis = open_redis(RedisClientSettings(cluster.url))
    try:
        async with projecting(engine, redis, queue):
            yield
    finally:
        await redis.close()


async def at_work(engine: Engine, redis: RedisClient, numbers: list[int]) -> View:
    """Return the live view when the projection loop keeps it up to date, and so knows that it is live."""
    await up_to_date_view(engine, redis)
    await write(engine, (numbers[-2], numbers[-1]))
    return await up_to_date_view(engine, redis)


def bury(cluster: ValkeyCluster, view: View, *, with_pointer: bool = True) -> set[int]:
    """Kill the master that has the pointer, or another, and its replica first; the partitions that are gone with it."""
    holder = cluster.master_of(POINTER)
    master = next(node for node in cluster.masters().values() if (node is holder) == with_pointer)
    partitions = partitions_of(cluster, view, master)
    cluster.wait_replicated()
    cluster.replica_of(master).kill()
    master.kill()
    return partitions


async def test_partitions_on_the_other_masters_go_on(
    cluster: ValkeyCluster, redis: RedisClient, engine: Engine, sql: Connection, queue_url: str
) -> None:
    """Projected and read, although the pointer cannot be read; the lost ones follow when they are back."""
    queue = queue_of(queue_url)
    numbers, wakeup, reader = await people(engine, 24), Wakeup(queue), Reader(redis, Progress())
    async with running_loop(engine, cluster, queue):
        view = await at_work(engine, redis, numbers)
        await follow_state(reader, numbers[0], numbers[1])
        gone = await asyncio.to_thread(bury, cluster, view)
        here = [number for number in numbers if view.partition_of(number) not in gone]
        away = next(number for number in numbers if view.partition_of(number) in gone)
        assert len(here) > 4 and gone
        for fan in here[1:5]:
            end = await write(engine, (fan, here[0]))
            wakeup.send(end)

            async def seen(fan: int = fan, end: int = end) -> bool:
                try:
                    found = await follow_state(reader, fan, here[0])
                except ViewsUnavailable:  # until the client has learned which node is gone
                    return False
                assert (found.row is not None) == (found.position >= end)
                return found.row is not None

            await until(seen)
        with pytest.raises(ViewsUnavailable):
            await follow_state(reader, away, here[0])
        await asyncio.to_thread(cluster.heal)
        assert await up_to_date_view(engine, redis) == view
        assert held(cluster, view) == view_model.expected(sql, view)
    await wakeup.close()


async def test_a_reader_goes_on_with_the_view_it_knows(
    cluster: ValkeyCluster, redis: RedisClient, engine: Engine, queue_url: str
) -> None:
    """For a bounded time, not if workers report another view, and never into partitions that were taken away."""
    numbers, progress = await people(engine, 24), Progress()
    async with running_loop(engine, cluster, queue_of(queue_url)):
        view = await at_work(engine, redis, numbers)
    clock, limits = Clock(), ReaderLimits(view_age_max_s=0.0)
    reader = Reader(redis, progress, limits=limits, clock=clock)
    newcomer, live_pointer = Reader(redis, Progress()), LivePointer(redis)
    assert await reader.view() == await live_pointer.view() == view
    gone = await asyncio.to_thread(bury, cluster, view)
    one, other = [number for number in numbers if view.partition_of(number) not in gone][:2]
    for _ in range(5):
        assert await reader.view() == view
    assert (await follow_state(reader, one, other)).followed_exists
    assert (await live_pointer.view(), await live_pointer.is_live(view)) == (view, None)
    with pytest.raises(ViewsUnavailable):
        await newcomer.view()
    with pytest.raises(ViewsUnavailable):
        await LivePointer(redis).view()
    progress.on_message(progress_message(1, range(LEASE_GROUPS), view.generation + 1))
    with pytest.raises(ViewsUnavailable):
        await reader.view()
    progress.on_message(progress_message(1, range(LEASE_GROUPS), view.generation))
    assert await reader.view() == view
    fence = 2**40
    await asyncio.gather(
        *[
            redis.run(generations.RETIRE, [view.checkpoint(partition)], [fence, "position", "retired_position"])
            for partition in range(view.partitions)
            if partition not in gone
        ]
    )
    with pytest.raises((ViewsUnavailable, ViewUnavailable)):
        await follow_state(reader, one, other)
    clock.time += limits.pointer_outage_max_s
    with pytest.raises(ViewsUnavailable):
        await reader.view()


async def test_progress_of_a_group_that_is_not_whole_is_not_published(
    cluster: ValkeyCluster, redis: RedisClient, engine: Engine, queue_url: str
) -> None:
    """A partition that is away may come back older than what was published."""
    queue, progress = queue_of(queue_url), Progress()
    listener = Listener(queue, LogNames.applied_channel, progress.on_message)
    await listener.start()
    numbers = await people(engine, 24)
    async with running_loop(engine, cluster, queue):
        view = await at_work(engine, redis, numbers)
        assert await progress.wait((await log.head(engine)).position, range(LEASE_GROUPS), 10), (
            "everything is published while every partition is there"
        )
        gone = await asyncio.to_thread(bury, cluster, view, with_pointer=False)
        here = next(number for number in numbers if view.partition_of(number) not in gone)
        away = next(number for number in numbers if view.partition_of(number) in gone)
        (written,) = await append(engine, here, away, UserFollowed())
        partitions = [partition for partition in range(view.partitions) if partition not in gone]

        async def reached() -> bool:
            found, away = await generations.reachable(redis, view, partitions, 1.0)
            return not away and all(
                partition and partition.position >= written.position for partition in found.values()
            )

        await until(reached)
        assert not await progress.wait(written.position, [lease_group_of(view.partition_of(away))], 0.3)
        await asyncio.to_thread(cluster.heal)
        assert await progress.wait(written.position, range(LEASE_GROUPS), 30)
    await listener.close()
