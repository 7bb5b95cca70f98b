"""What tests of the workers open."""

from collections.abc import AsyncIterator

import pytest

from projections.signals.wakeups import Wakeup
from tests.support.fixtures import engine, fragile, other_engine, redis, sql
from tests.support.queues import queue_of

__all__ = ["engine", "fragile", "other_engine", "redis", "sql"]


@pytest.fixture
async def wakeup(queue_url: str) -> AsyncIterator[Wakeup]:
    """A worker's connection to the queue."""
    opened = Wakeup(queue_of(queue_url))
    yield opened
    await opened.close()
