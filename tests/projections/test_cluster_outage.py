"""A master of a cluster is gone, and so is its replica: who needs it gets 503, and everybody else notices nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from commands import log
from commands.errors import StoreUnavailable, ViewUnavailable
from commands.events import UserFollowed
from commands.postgres import Engine
from projections import generations
from projections.drain import Drain
from projections.keys import APPLIED_CHANNEL, GROUPS, POINTER, View
from projections.sighting import Sighting
from projections.store import Store, StoreSettings, open_store
from projections.wakeup import Listener, Progress, QueueSettings, Wakeup, progress_message
from queries import reader as reading
from queries.follows import status
from queries.reader import Reader
from tests.commands.writing import Connection, append
from tests.projections import model
from tests.projections.spread import held, lanes_of
from tests.projections.watching import level
from tests.projections.worlds import people, write
from tests.valkey_cluster import ValkeyCluster, _cluster, cluster
from tests.waiting import until

__all__ = ["_cluster", "cluster"]


@pytest.fixture
async def store(cluster: ValkeyCluster) -> AsyncIterator[Store]:
    """The store of a process, on an empty cluster."""
    opened = open_store(StoreSettings(cluster.url))
    yield opened
    await opened.close()


@asynccontextmanager
async def draining(engine: Engine, cluster: ValkeyCluster, queue: QueueSettings) -> AsyncIterator[None]:
    """A worker's drain, with a store of its own; that it has not ended by itself is part of each test."""
    store = open_store(StoreSettings(cluster.url))
    drain = Drain(engine, store, queue, uuid4())
    task = asyncio.create_task(drain.run(3600))
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.wait({task})
        await drain.close()
        await store.close()


async def at_work(engine: Engine, store: Store, numbers: list[int]) -> View:
    """The live view, once the drain is seen to keep it level, and so knows which one readers see."""
    await level(engine, store)
    await write(engine, (numbers[-2], numbers[-1]))
    return await level(engine, store)


def bury(cluster: ValkeyCluster, view: View, *, with_pointer: bool = True) -> set[int]:
    """Kill the master that has the pointer, or another, and its replica first; the lanes that are gone with it."""
    holder = cluster.master_of(POINTER)
    master = next(node for node in cluster.masters().values() if (node is holder) == with_pointer)
    lanes = lanes_of(cluster, view, master)
    cluster.wait_replicated()
    cluster.replica_of(master).kill()
    master.kill()
    return lanes


async def test_the_lanes_on_the_other_masters_go_on(
    cluster: ValkeyCluster, store: Store, engine: Engine, sql: Connection, queue_url: str
) -> None:
    """Projected and read, although nobody can ask which view readers see; the lost ones follow when they are back."""
    queue = QueueSettings(queue_url)
    numbers, wakeup, reader = await people(engine, 24), Wakeup(queue), Reader(store, Progress())
    async with draining(engine, cluster, queue):
        view = await at_work(engine, store, numbers)
        await status(reader, numbers[0], numbers[1])
        gone = await asyncio.to_thread(bury, cluster, view)
        here = [number for number in numbers if view.lane_of(number) not in gone]
        away = next(number for number in numbers if view.lane_of(number) in gone)
        assert len(here) > 4 and gone
        for fan in here[1:5]:
            end = await write(engine, (fan, here[0]))
            wakeup.send(end)

            async def seen(fan: int = fan, end: int = end) -> bool:
                try:
                    found = await status(reader, fan, here[0])
                except StoreUnavailable:  # as long as the store has not learned which server is gone
                    return False
                assert (found.row is not None) == (found.position >= end)
                return found.row is not None

            await until(seen)
        with pytest.raises(StoreUnavailable):
            await status(reader, away, here[0])
        await asyncio.to_thread(cluster.heal)
        assert await level(engine, store) == view
        assert held(cluster, view) == model.expected(sql, view)
    await wakeup.close()


async def test_a_reader_goes_on_with_the_view_it_knows(
    cluster: ValkeyCluster, store: Store, engine: Engine, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a bounded time, not if the workers tell of another view, and never into lanes that were taken away."""
    numbers, progress = await people(engine, 24), Progress()
    async with draining(engine, cluster, QueueSettings(queue_url)):
        view = await at_work(engine, store, numbers)
    reader, newcomer, sighting = Reader(store, progress), Reader(store, Progress()), Sighting(store)
    assert await reader.view() == await sighting.last() == view
    gone = await asyncio.to_thread(bury, cluster, view)
    one, other = [number for number in numbers if view.lane_of(number) not in gone][:2]
    monkeypatch.setattr(reading, "VIEW_AGE_S", 0.0)
    for _ in range(5):
        assert await reader.view() == view
    assert (await status(reader, one, other)).followed_exists
    assert (await sighting.last(), await sighting.sees(view)) == (view, None)
    with pytest.raises(StoreUnavailable):
        await newcomer.view()
    with pytest.raises(StoreUnavailable):
        await Sighting(store).last()
    progress.hear(progress_message(1, range(GROUPS), view.generation + 1))
    with pytest.raises(StoreUnavailable):
        await reader.view()
    progress.hear(progress_message(1, range(GROUPS), view.generation))
    assert await reader.view() == view
    fence = 2**40
    await asyncio.gather(
        *[
            store.run(generations.RETIRE, [view.checkpoint(lane)], [fence, "position", "kept"])
            for lane in range(view.lanes)
            if lane not in gone
        ]
    )
    with pytest.raises((StoreUnavailable, ViewUnavailable)):
        await status(reader, one, other)
    monkeypatch.setattr(reading, "POINTER_AWAY_S", 0.0)
    with pytest.raises(StoreUnavailable):
        await reader.view()


async def test_nobody_is_told_of_a_group_that_is_not_whole(
    cluster: ValkeyCluster, store: Store, engine: Engine, queue_url: str
) -> None:
    """A lane that is away may come back older than what was told."""
    queue, told = QueueSettings(queue_url), Progress()
    listener = Listener(queue, APPLIED_CHANNEL, told.hear)
    await listener.start()
    numbers = await people(engine, 24)
    async with draining(engine, cluster, queue):
        view = await at_work(engine, store, numbers)
        assert await told.wait((await log.head(engine)).position, range(GROUPS), 10), "all is told while all is there"
        gone = await asyncio.to_thread(bury, cluster, view, with_pointer=False)
        here = next(number for number in numbers if view.lane_of(number) not in gone)
        away = next(number for number in numbers if view.lane_of(number) in gone)
        (written,) = await append(engine, here, away, UserFollowed())
        lanes = [lane for lane in range(view.lanes) if lane not in gone]

        async def reached() -> bool:
            found, away = await generations.reachable(store, view, lanes, 1.0)
            return not away and all(lane and lane.position >= written.position for lane in found.values())

        await until(reached)
        assert not await told.wait(written.position, [view.group_of_user(away)], 0.3)
        await asyncio.to_thread(cluster.heal)
        assert await told.wait(written.position, range(GROUPS), 30)
    await listener.close()
