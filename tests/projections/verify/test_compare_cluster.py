"""Comparison and repair of views that are spread over a real cluster."""

from collections.abc import AsyncIterator

import pytest

from commands.db.postgres import Engine
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from tests.support.small_world import compare, contents, named, populate, repair, viewed
from tests.support.valkey_cluster import ValkeyCluster, _cluster, cluster
from tests.support.view_corruptions import CORRUPTIONS

__all__ = ["_cluster", "cluster"]


@pytest.fixture
async def redis(cluster: ValkeyCluster) -> AsyncIterator[RedisClient]:
    """A client of an empty cluster."""
    opened = open_redis(RedisClientSettings(cluster.url))
    yield opened
    await opened.close()


async def test_every_corruption_on_cluster_is_found_and_repaired(engine: Engine, redis: RedisClient) -> None:
    """One after the other on one view; after each repair all is as before."""
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    before = await contents(redis, view)
    for corrupt in CORRUPTIONS:
        broken = await corrupt(redis, view, numbers)
        seen, _ = await compare(engine, redis, view)
        assert named(seen) == sorted(broken, key=repr), corrupt.__name__
        await repair(engine, redis, view, seen)
        await repair(engine, redis, view, (await compare(engine, redis, view))[0])
        assert await contents(redis, view) == before, corrupt.__name__
    assert (await compare(engine, redis, view))[1].clean
