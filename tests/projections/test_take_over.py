"""Partitions of a worker that died, hangs or has lost its Redis go to another worker; no clock of a server is asked."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from commands.coordination import leases
from commands.db.postgres import Engine
from commands.events import UserFollowed
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.errors import Fenced
from projections.keys import LEASE_GROUPS
from projections.loop import LoopTiming
from projections.rebuild.build import BuildLease
from tests.support.fixtures import Plain
from tests.support.live_view import made_store, projecting, up_to_date_view
from tests.support.log_writes import append, rows
from tests.support.proxy import Proxy, listening
from tests.support.queues import queue_of
from tests.support.small_world import populate
from tests.support.view_model import actual, expected
from tests.support.waiting import until

Sql = psycopg.Connection[Any]
# Looks and renewals come eight times as often as in a worker.
FAST_LOOKS = LoopTiming(idle_s=0.05, renew_s=0.05, look_s=0.1)
NAMES = [f"group:{group}" for group in range(LEASE_GROUPS)]


async def test_partitions_of_dead_workers_are_projected_whatever_the_clocks_say(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue_url: str
) -> None:
    """The rows of four dead workers and of a dead builder are all that is left of them."""
    store = await made_store(engine, redis)
    for _ in range(2):
        for owner in (dead := [uuid4() for _ in range(4)]):
            await leases.acquire_share(engine, NAMES, owner, store=store)
    await leases.acquire(engine, leases.BUILD_LEASE, dead[0], store)
    await populate(engine)
    async with projecting(engine, redis, queue_of(queue_url), FAST_LOOKS):
        view = await up_to_date_view(engine, redis)
        assert actual(raw_redis, view) == expected(sql, view)
    assert rows(sql, "SELECT owner FROM lease_owners") == []


async def test_worker_that_alone_has_lost_redis_gives_its_partitions_to_others(
    engine: Engine,
    other_engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    redis_url: str,
    queue_url: str,
) -> None:
    """Its packets to Redis vanish, and Postgres answers it all the while. When Redis answers again, it gets a share."""
    queue, address = queue_of(queue_url), urlsplit(redis_url)
    proxy = Proxy(address.path)
    await populate(engine)
    async with listening(proxy) as port:
        cut_off = open_redis(RedisClientSettings(f"redis://127.0.0.1:{port}/?{address.query}"), reply_timeout_s=1)
        async with (
            projecting(engine, redis, queue, FAST_LOOKS),
            projecting(other_engine, cut_off, queue, FAST_LOOKS),
        ):
            await until(lambda: _shares(engine, 4, 4))
            await up_to_date_view(engine, redis)
            await append(engine, 72, 73, UserFollowed())
            await up_to_date_view(engine, redis)  # each has projected its share
            connections = proxy.connections
            proxy.hang()
            await append(engine, 70, 71, UserFollowed())
            view = await up_to_date_view(engine, redis)
            assert actual(raw_redis, view) == expected(sql, view)
            await until(lambda: _shares(engine, 8))
            await _keeps_all(engine, lambda: proxy.connections >= connections + 3)  # the other had several turns
            proxy.resume()
            await until(lambda: _shares(engine, 4, 4))
            await append(engine, 71, 70, UserFollowed())
            assert actual(raw_redis, await up_to_date_view(engine, redis)) == expected(sql, view)
        await cut_off.close()


async def test_builder_that_has_lost_redis_loses_the_build_lease(
    engine: Engine, other_engine: Engine, redis: RedisClient, redis_url: str
) -> None:
    """Another process may build; the first one finds its lease taken."""
    address = urlsplit(redis_url)
    proxy = Proxy(address.path)
    async with listening(proxy) as port:
        cut_off = open_redis(RedisClientSettings(f"redis://127.0.0.1:{port}/?{address.query}"))
        async with BuildLease(engine, cut_off, renew_s=0.01) as first:
            proxy.hang()
            async with BuildLease(other_engine, redis) as second:
                assert second.fence > first.fence
                proxy.resume()
                await until(lambda: _is_fenced(first))
        await cut_off.close()


async def test_waiting_builder_takes_the_lease_of_a_killed_one(engine: Engine, redis: RedisClient) -> None:
    """No worker is there that would see it."""
    await leases.acquire(engine, leases.BUILD_LEASE, uuid4(), await made_store(engine, redis))
    async with BuildLease(engine, redis) as lease:
        assert lease.fence > 1


async def _is_fenced(lease: BuildLease) -> bool:
    try:
        await lease.check()
    except Fenced:
        return True
    return False


async def _keeps_all(engine: Engine, is_over: Callable[[], bool]) -> None:
    """Check at each look, until ``is_over()``, that one owner has all leases."""

    async def look() -> bool:
        assert await _shares(engine, 8), "not for a moment only"
        return is_over()

    await until(look)


async def _shares(engine: Engine, *counts: int) -> bool:
    """Return whether the owners of leases, besides a builder, hold so many each."""
    held = Counter(lease.owner for lease in await leases.list_leases(engine) if lease.name != leases.BUILD_LEASE)
    return tuple(held.values()) == counts
