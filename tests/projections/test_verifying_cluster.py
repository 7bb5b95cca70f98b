"""Comparing and mending views that are spread over a real cluster."""

from collections.abc import AsyncIterator

import pytest

from commands.postgres import Engine
from projections.repairing import mend
from projections.store import Store, StoreSettings, open_store
from tests.projections.breaking import BREAKS
from tests.projections.test_verifying import found_in, named
from tests.projections.worlds import contents, populate, viewed
from tests.valkey_cluster import ValkeyCluster, _cluster, cluster

__all__ = ["_cluster", "cluster"]


@pytest.fixture
async def store(cluster: ValkeyCluster) -> AsyncIterator[Store]:
    """The store of a process, on an empty cluster."""
    opened = open_store(StoreSettings(cluster.url))
    yield opened
    await opened.close()


async def test_every_break_is_named_and_mended_on_a_cluster_too(engine: Engine, store: Store) -> None:
    """One after the other on one view: exactly what was broken is found, and all is as before."""
    numbers = await populate(engine)
    view = await viewed(engine, store)
    before = await contents(store, view)
    for break_it in BREAKS:
        broken = await break_it(store, view, numbers)
        seen, _ = await found_in(engine, store, view)
        assert named(seen) == sorted(broken, key=repr), break_it.__name__
        await mend(engine, store, view, seen)
        await mend(engine, store, view, (await found_in(engine, store, view))[0])
        assert await contents(store, view) == before, break_it.__name__
    assert (await found_in(engine, store, view))[1].clean
