"""The views on whoever the sentinels call master: a failover that loses writes is noticed and made good."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from commands.errors import SettingsError, StoreUnavailable
from projections.store import Store, StoreSettings, check_store, open_store
from projections.wakeup import QueueSettings, open_queue
from tests.commands.writing import Connection
from tests.projections import model
from tests.projections.load import Load, under_load
from tests.valkey_sentinel import Watched, watched_servers


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two servers and three sentinels for this file."""
    with watched_servers(tmp_path_factory.mktemp("watched")) as running:
        yield running


@pytest.fixture
async def store(watched: Watched) -> AsyncIterator[Store]:
    """The store of a process, on an empty master."""
    watched.heal()
    watched.master().client.flushall()
    opened = open_store(StoreSettings(watched.url))
    yield opened
    await opened.close()


async def test_the_master_is_found(watched: Watched, store: Store) -> None:
    await check_store(store)
    assert await store.call("SET", "a", 1) == b"OK"
    assert watched.master().client.get("a") == b"1"
    assert await store.get_many(["a", "b"]) == [b"1", None]


async def test_a_dead_sentinel_is_passed_by(watched: Watched, store: Store) -> None:
    watched.sentinels[0].kill()
    assert await store.call("PING") == b"PONG"
    watched.sentinels[0].start()


async def test_a_master_that_was_made_a_replica_is_left(watched: Watched, store: Store) -> None:
    """Its connection may live on; the first refusal to write ends it, and the next finds the new master."""
    assert await store.call("SET", "a", 1) == b"OK"
    old = watched.master()
    watched.fail_over()
    answer: object = None
    while answer != b"OK":
        try:
            answer = await store.call("SET", "a", 2)
        except StoreUnavailable:
            await asyncio.sleep(0.01)
    assert watched.master() is not old and watched.master().client.get("a") == b"2"


async def test_an_unknown_master(watched: Watched) -> None:
    store = open_store(StoreSettings(watched.url.replace("the-views", "nobody")))
    with pytest.raises(StoreUnavailable):
        await store.call("PING")
    await store.close()


async def test_a_url_that_takes_a_server_for_a_cluster(watched: Watched) -> None:
    store = open_store(StoreSettings(f"redis+cluster://127.0.0.1:{watched.master().port}"))
    with pytest.raises(SettingsError, match="no part of a cluster"):
        await check_store(store)
    await store.close()


async def test_the_queue_is_found_too(watched: Watched) -> None:
    queue = await open_queue(QueueSettings(watched.url))
    assert await queue.ping()
    await queue.aclose()
    for sentinel in queue.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
        await sentinel.aclose()  # arq leaves them to the garbage collector


async def test_a_sentinel_that_says_nothing_keeps_nobody_from_the_next(watched: Watched) -> None:
    """Its host has vanished, and perhaps the master with it: the queue is found on the first try."""
    silent = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        queue = await open_queue(QueueSettings(watched.url.replace("://", f"://127.0.0.1:{port},", 1)))
        assert await queue.ping()
        await queue.aclose()
        for sentinel in queue.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
            await sentinel.aclose()
        silent.set()


async def test_a_failover_under_load_that_loses_writes(
    watched: Watched, store: Store, database_url: str, queue_url: str, sql: Connection
) -> None:
    async def disturb(load: Load) -> None:
        killed = watched.master()
        killed.forsake_replicas()
        await load.more_answers()
        killed.kill()

    async with under_load(database_url, watched.url, queue_url, disturb) as load:
        assert await load.wrong_answers() == []
        assert load.refused
        assert model.actual(watched.master().client, load.view) == model.expected(sql, load.view)
