"""A real cluster under load: masters die, freeze and lose slots while users follow each other and read."""

import asyncio

from redis.crc import key_slot

from projections.keys import POINTER
from projections.rebuild.rebuild import Builder, RebuildOptions
from projections.views.generations import live_view
from tests.support import view_model
from tests.support.cluster_contents import held, partitions_of, positions
from tests.support.load import Load, under_load
from tests.support.log_writes import Connection
from tests.support.queues import queue_of
from tests.support.valkey_cluster import ValkeyCluster, _cluster, cluster, wait_until

__all__ = ["_cluster", "cluster"]


async def assert_nothing_is_lost(load: Load, cluster: ValkeyCluster, sql: Connection) -> None:
    """Assert that no answer was wrong and that the view equals the fold of the log."""
    assert await load.wrong_answers() == []
    assert held(cluster, load.view) == view_model.expected(sql, load.view)


async def test_failover_under_load_that_loses_writes_gives_no_wrong_answer(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    """The promoted replica is behind what the worker had written; the worker goes on from there."""
    partitions: set[int] = set()

    async def disturb(load: Load) -> None:
        killed = next(node for node in cluster.masters().values() if node is not cluster.master_of(POINTER))
        replica = cluster.replica_of(killed)
        partitions.update(partitions_of(cluster, load.view, killed))
        killed.disconnect_replicas()
        await load.more_answers()
        before = positions(killed, load.view, partitions)
        killed.kill()
        replica.ask("READONLY")
        lost = [ours - its for ours, its in zip(before, positions(replica, load.view, partitions), strict=True)]
        assert min(lost) >= 0 and max(lost) > 0

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await assert_nothing_is_lost(load, cluster, sql)
        assert load.refused and set(load.refused) <= partitions


async def test_moving_slots_under_load_refuses_no_read(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    async def disturb(load: Load) -> None:
        masters = list(cluster.masters().values())
        for partition in range(0, load.view.partitions, 4):
            key = load.view.checkpoint(partition)
            source = cluster.master_of(key)
            target = masters[masters.index(source) - 1]
            await asyncio.to_thread(cluster.move_slot, key_slot(key.encode()), target)

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await assert_nothing_is_lost(load, cluster, sql)
        assert load.refused == []


async def test_master_frozen_under_load_resumes_as_a_replica(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    async def disturb(load: Load) -> None:
        frozen = cluster.master_of(POINTER)
        frozen.freeze()
        await asyncio.to_thread(wait_until, lambda: cluster.master_of(POINTER) is not frozen)
        await load.more_answers()
        frozen.thaw()

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await assert_nothing_is_lost(load, cluster, sql)


async def test_rebuild_and_undo_under_load_refuse_no_read(
    cluster: ValkeyCluster, database_url: str, queue_url: str, sql: Connection
) -> None:
    """The two views have different numbers of partitions, so their keys are on other masters."""

    async def disturb(load: Load) -> None:
        async with Builder(load.engine, load.redis, queue_of(queue_url)) as builder:
            new = await builder.rebuild(RebuildOptions(partitions=16), lambda _: None)
            assert await live_view(load.redis) == new
            await load.more_answers()
            assert await builder.undo(lambda _: None) == load.view
            await load.more_answers()

    async with under_load(database_url, cluster.url, queue_url, disturb) as load:
        await assert_nothing_is_lost(load, cluster, sql)
        assert load.refused == []
