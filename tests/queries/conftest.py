"""What tests of the queries open: a view of four lanes that is made by hand, and a reader of it."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from redis import Redis

from projections import generations
from projections.store import Store
from projections.wakeup import Progress
from queries.reader import Reader
from tests.opened import store
from tests.queries.views import VIEW

__all__ = ["store"]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A plain client for making and breaking the view by hand."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def reader(store: Store) -> Reader:
    """A process that reads; the view is live, empty, and stands at position 100."""
    await generations.prepare(store, VIEW, uuid4(), 1)
    await generations.switch(store, VIEW)
    for lane in range(VIEW.lanes):
        await store.call("HSET", VIEW.checkpoint(lane), "position", 100)
    return Reader(store, Progress())
