"""Fixtures of the projection tests."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.support.fixtures import engine, fragile, other_engine, redis, sql

__all__ = ["engine", "fragile", "other_engine", "redis", "sql"]


@pytest.fixture
def raw_redis(redis_url: str) -> Iterator[Redis]:
    """Yield a plain client that reads and writes the views by hand."""
    with Redis.from_url(redis_url) as client:
        yield client
