"""Snapshots on a real cluster: each partition's lists go to the server that has its slot."""

from collections.abc import AsyncIterator

import pytest

from commands.db.postgres import Engine
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import View
from tests.support.cluster_contents import held
from tests.support.log_writes import Connection
from tests.support.small_world import busy, populate
from tests.support.snapshots import filled, prepared, restores
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
