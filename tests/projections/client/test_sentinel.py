"""The views on the master that the sentinels name: a failover that loses writes is noticed and repaired."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from commands.errors import SettingsError, ViewsUnavailable
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.client.server_check import check_redis
from projections.signals.job_queue import open_queue
from tests.support import view_model
from tests.support.load import Load, under_load
from tests.support.log_writes import Connection
from tests.support.queues import queue_of
from tests.support.valkey_sentinel import Watched, watched_servers


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two servers and three sentinels for this file."""
    with watched_servers(tmp_path_factory.mktemp("watched")) as running:
        yield running


@pytest.fixture
async def redis(watched: Watched) -> AsyncIterator[RedisClient]:
    """The client of a process, on an empty master."""
    watched.heal()
    watched.master().client.flushall()
    opened = open_redis(RedisClientSettings(watched.url))
    yield opened
    await opened.close()


async def test_client_finds_the_master(watched: Watched, redis: RedisClient) -> None:
    await check_redis(redis)
    assert await redis.call("SET", "a", 1) == b"OK"
    assert watched.master().client.get("a") == b"1"
    assert await redis.get_many(["a", "b"]) == [b"1", None]


async def test_dead_sentinel_is_skipped(watched: Watched, redis: RedisClient) -> None:
    watched.sentinels[0].kill()
    assert await redis.call("PING") == b"PONG"
    watched.sentinels[0].start()


async def test_master_that_became_a_replica_is_left(watched: Watched, redis: RedisClient) -> None:
    """Its connection may stay open; the first READONLY error ends it, and the next goes to the new master."""
    assert await redis.call("SET", "a", 1) == b"OK"
    old = watched.master()
    watched.fail_over()
    answer: object = None
    while answer != b"OK":
        try:
            answer = await redis.call("SET", "a", 2)
        except ViewsUnavailable:
            await asyncio.sleep(0.01)
    assert watched.master() is not old and watched.master().client.get("a") == b"2"


async def test_unknown_master_is_views_unavailable(watched: Watched) -> None:
    redis = open_redis(RedisClientSettings(watched.url.replace("the-views", "unknown")))
    with pytest.raises(ViewsUnavailable):
        await redis.call("PING")
    await redis.close()


async def test_url_of_a_cluster_is_refused_for_one_server(watched: Watched) -> None:
    redis = open_redis(RedisClientSettings(f"redis+cluster://127.0.0.1:{watched.master().port}"))
    with pytest.raises(SettingsError, match="no part of a cluster"):
        await check_redis(redis)
    await redis.close()


async def test_queue_is_found_by_way_of_sentinels(watched: Watched) -> None:
    queue = await open_queue(queue_of(watched.url))
    assert await queue.ping()
    await queue.aclose()
    for sentinel in queue.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
        await sentinel.aclose()  # arq does not close them


async def test_silent_sentinel_does_not_delay_the_next(watched: Watched) -> None:
    """Its host is gone, and perhaps the master with it: the queue is found on the first try."""
    silent = asyncio.Event()

    async def never_reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    async with await asyncio.start_server(never_reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        queue = await open_queue(queue_of(watched.url.replace("://", f"://127.0.0.1:{port},", 1)))
        assert await queue.ping()
        await queue.aclose()
        for sentinel in queue.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
            await sentinel.aclose()
        silent.set()


async def test_failover_under_load_that_loses_writes_gives_no_wrong_answer(
    watched: Watched, redis: RedisClient, database_url: str, queue_url: str, sql: Connection
) -> None:
    async def disturb(load: Load) -> None:
        killed = watched.master()
        killed.disconnect_replicas()
        await load.more_answers()
        killed.kill()

    async with under_load(database_url, watched.url, queue_url, disturb) as load:
        assert await load.wrong_answers() == []
        assert load.refused
        assert view_model.actual(watched.master().client, load.view) == view_model.expected(sql, load.view)
