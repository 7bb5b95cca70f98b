"""What tests of the projections open."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.opened import engine, fragile, other_engine, sql, store

__all__ = ["engine", "fragile", "other_engine", "sql", "store"]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A plain client for looking at the views by hand."""
    with Redis.from_url(redis_url) as client:
        yield client
