"""Snapshots on a real cluster: each partition's lists go to the server that has its slot."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings

from commands.db.postgres import Engine
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import View
from tests.support.cluster_contents import held
from tests.support.fixtures import few
from tests.support.log_writes import Connection, empty
from tests.support.small_world import busy, populate
from tests.support.snapshots import (
    BY_EVENTS,
    BY_SNAPSHOT,
    Drawn,
    check_resumed_after_each_step,
    drawn_events,
    filled,
    follow,
    history_of,
    pools,
    prepared,
    restores,
)
from tests.support.valkey_cluster import ValkeyCluster, _cluster, cluster
from tests.support.view_model import expected

__all__ = ["_cluster", "cluster"]
VIEW = View(3, 16)


@pytest.fixture
async def redis(cluster: ValkeyCluster) -> AsyncIterator[RedisClient]:
    """A client of an empty cluster."""
    opened = open_redis(RedisClientSettings(cluster.url))
    yield opened
    await opened.close()


async def test_snapshot_on_a_cluster_equals_the_log(
    engine: Engine, redis: RedisClient, sql: Connection, cluster: ValkeyCluster
) -> None:
    """With writes in between; all three masters restore lists."""
    numbers = await populate(engine)
    before = [restores(node.client) for node in cluster.masters().values()]
    async with busy(engine, numbers):
        await prepared(engine, redis, VIEW)
        await filled(engine, redis, VIEW, batch=500)
    await filled(engine, redis, VIEW)
    after = [restores(node.client) for node in cluster.masters().values()]
    assert all(now > then for now, then in zip(after, before, strict=True))
    assert held(cluster, VIEW) == expected(sql, VIEW)


@settings(few, max_examples=10)
@given(pools, drawn_events)
async def test_snapshot_of_any_history_on_a_cluster_equals_the_projectors_view(
    engine: Engine, redis: RedisClient, sql: Connection, cluster: ValkeyCluster, pool: list[int], drawn: Drawn
) -> None:
    empty(sql)
    flush(cluster)
    await follow(engine, history_of(pool, drawn))
    await prepared(engine, redis, BY_EVENTS, snapshot=False)
    await filled(engine, redis, BY_EVENTS)
    await prepared(engine, redis, BY_SNAPSHOT)
    await filled(engine, redis, BY_SNAPSHOT)
    by_events, by_snapshot = (held(cluster, view) for view in (BY_EVENTS, BY_SNAPSHOT))
    assert {key.replace("{g3.", "{g2."): value for key, value in by_snapshot.items()} == by_events != {}


@pytest.mark.parametrize("after", [False, True])
async def test_build_on_a_cluster_killed_at_any_step_is_resumed(
    engine: Engine, redis: RedisClient, sql: Connection, cluster: ValkeyCluster, after: bool
) -> None:
    see = (lambda: flush(cluster)), (lambda: held(cluster, BY_SNAPSHOT)), (lambda: restored(cluster))
    await check_resumed_after_each_step(engine, redis, sql, *see, after=after)


def restored(cluster: ValkeyCluster) -> int:
    """Return how many lists all masters have restored."""
    return sum(restores(node.client) for node in cluster.masters().values())


def flush(cluster: ValkeyCluster) -> None:
    """Empty all masters."""
    for node in cluster.masters().values():
        node.client.flushall()
