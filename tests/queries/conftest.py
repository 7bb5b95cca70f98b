"""Fixtures of the query tests: a view of four partitions, written by the tests, and a reader of it."""

from collections.abc import Iterator

import pytest
from redis import Redis

from projections.client.client import RedisClient
from projections.views import generations
from queries.reader import Reader
from tests.support.fixtures import redis
from tests.support.handmade_view import VIEW, ObservedProgress

__all__ = ["redis"]


@pytest.fixture
def raw_redis(redis_url: str) -> Iterator[Redis]:
    """A plain client that writes and damages the view."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def reader(redis: RedisClient) -> Reader:
    """A reader; the view is live, empty, and at position 100."""
    await generations.prepare(redis, VIEW, None, 1)
    await generations.switch(redis, VIEW)
    for partition in range(VIEW.partitions):
        await redis.call("HSET", VIEW.checkpoint(partition), "position", 100)
    reader = Reader(redis, ObservedProgress())
    reader.progress.subscribe(reader.profile_cache, reader.invalidate_numbers)
    return reader
