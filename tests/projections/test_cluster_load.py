"""A real cluster under load: masters die, freeze and lose slots while people follow each other and look at it."""

import asyncio

from redis.crc import key_slot

from projections.generations import live_view
from projections.keys import POINTER
from projections.rebuilding import Builder, Order
from projections.wakeup import QueueSettings
from tests.commands.writing import Connection
from tests.projections import model
from tests.projections.load import Load, under_load
from tests.projections.spread import held, lanes_of, positions
from tests.valkey_cluster import ValkeyCluster, _cluster, cluster, wait_until

__all__ = ["_cluster", "cluster"]


async def the_truth_remains(load: Load, cluster: ValkeyCluster, sql: Connection) -> None:
    """No answer was wrong, and the view is exactly the log's fold now."""
    assert await load.wrong_answers() == []
    assert held(cluster, load.view) == model.expected(sql, load.view)


async def test_a_failover_under_load_that_loses_writes(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    """The replica that takes over knows less than the drain had written: it goes on from where it stands."""
    lanes: set[int] = set()

    async def disturb(load: Load) -> None:
        killed = next(node for node in cluster.masters().values() if node is not cluster.master_of(POINTER))
        replica = cluster.replica_of(killed)
        lanes.update(lanes_of(cluster, load.view, killed))
        killed.forsake_replicas()
        await load.more_answers()
        before = positions(killed, load.view, lanes)
        killed.kill()
        replica.ask("READONLY")
        lost = [ours - its for ours, its in zip(before, positions(replica, load.view, lanes), strict=True)]
        assert min(lost) >= 0 and max(lost) > 0

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await the_truth_remains(load, cluster, sql)
        assert load.refused and set(load.refused) <= lanes


async def test_slots_that_move_under_load(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    async def disturb(load: Load) -> None:
        masters = list(cluster.masters().values())
        for lane in range(0, load.view.lanes, 4):
            key = load.view.checkpoint(lane)
            source = cluster.master_of(key)
            target = masters[masters.index(source) - 1]
            await asyncio.to_thread(cluster.move_slot, key_slot(key.encode()), target)

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await the_truth_remains(load, cluster, sql)
        assert load.refused == []


async def test_a_master_frozen_under_load_wakes_as_a_replica(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    async def disturb(load: Load) -> None:
        frozen = cluster.master_of(POINTER)
        frozen.freeze()
        await asyncio.to_thread(wait_until, lambda: cluster.master_of(POINTER) is not frozen)
        await load.more_answers()
        frozen.thaw()

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await the_truth_remains(load, cluster, sql)


async def test_a_rebuild_and_the_way_back_under_load(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    """Other lanes are on other masters; nobody notices, and both views are whole on all of them."""

    async def disturb(load: Load) -> None:
        async with Builder(load.engine, load.store, QueueSettings(queue_url)) as builder:
            new = await builder.rebuild(Order(lanes=16), lambda _: None)
            assert await live_view(load.store) == new
            await load.more_answers()
            assert await builder.undo(lambda _: None) == load.view
            await load.more_answers()

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await the_truth_remains(load, cluster, sql)
        assert load.refused == []
