"""One log that feeds two Redis at once, as in a move from one to the other: each has its own workers."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from redis import Redis

from commands.coordination import leases, parked
from commands.coordination.view_register import list_generations
from commands.db.postgres import Engine
from commands.events import UserFollowed
from commands.log import event_log as log
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import LEASE_GROUPS, LogNames
from projections.rebuild.rebuild import Builder
from projections.signals.progress import Progress, progress_message
from projections.signals.wakeups import Listener
from projections.views import generations
from projections.views.feeder_record import registered, store_of
from queries.reader import Reader
from tests.support.fixtures import Plain
from tests.support.live_view import FAST, made_store, projecting, up_to_date_view
from tests.support.log_writes import append, register
from tests.support.queues import queue_of
from tests.support.servers import Servers
from tests.support.view_model import actual, expected
from tests.support.waiting import until

Sql = psycopg.Connection[Any]


@pytest.fixture
def second_url(servers: Servers) -> str:
    """Another Redis: an empty database that no other fixture gives out."""
    return servers.valkey_url(15)


@pytest.fixture
async def second(second_url: str) -> AsyncIterator[RedisClient]:
    """A client of the second Redis."""
    opened = open_redis(RedisClientSettings(second_url))
    yield opened
    await opened.close()


@pytest.fixture
def raw_second(second_url: str) -> Iterator[Plain]:
    """A plain client of the second Redis."""
    with Redis.from_url(second_url) as client:
        yield client


async def test_each_redis_has_all_partitions_from_workers_of_its_own(
    engine: Engine,
    other_engine: Engine,
    redis: RedisClient,
    second: RedisClient,
    raw_redis: Plain,
    raw_second: Plain,
    sql: Sql,
    queue_url: str,
) -> None:
    """A worker that is started with another REDIS_URL takes no partition away, and both views follow the log."""
    people = await register(engine, *(f"p{number}" for number in range(30)))
    queue = queue_of(queue_url)
    async with projecting(engine, redis, queue, FAST) as one:
        await up_to_date_view(engine, redis)
        async with projecting(other_engine, second, queue, FAST) as two:
            for follower in people[1:]:
                await append(engine, follower, people[0], UserFollowed())
            views = await up_to_date_view(engine, redis), await up_to_date_view(engine, second)
            assert len(one.leases.fences) == len(two.leases.fences) == LEASE_GROUPS
            server = raw_redis.info("server")["run_id"]
            for client in (redis, second):
                assert await leases.list_runs(engine, await store_of(client)) == [server]
            assert actual(raw_redis, views[0]) == expected(sql, views[0])
            assert actual(raw_second, views[1]) == expected(sql, views[1])
    assert views[0].generation != views[1].generation
    assert [row.number for row in await registered(engine, redis)] == [views[0].generation]
    assert [(row.number, row.state) for row in await registered(engine, second)] == [(views[1].generation, "live")]


async def test_build_and_prune_are_of_one_redis(
    engine: Engine, redis: RedisClient, second: RedisClient, queue_url: str
) -> None:
    (one,) = await register(engine, "a")
    stores = await made_store(engine, redis), await made_store(engine, second)
    assert stores[0] != stores[1]
    async with Builder(engine, redis, queue_of(queue_url)), projecting(engine, second, queue_of(queue_url), FAST):
        view = await up_to_date_view(engine, second)
        async with Builder(engine, second, queue_of(queue_url)) as builder:
            await append(engine, one, one + 1, UserFollowed())
            assert await up_to_date_view(engine, second) == view
            assert await builder.prune() == {}


async def test_what_is_parked_for_one_redis_is_not_unparked_by_a_repair_in_the_other(engine: Engine) -> None:
    for store in ("one", "two"):
        await parked.park(engine, [(3, 1, 2, "too odd")], store=store)
    assert await parked.unpark(engine, 1, 2, 3, "one") == 1
    assert await parked.read_parked(engine, store="one") == []
    assert [row.position for row in await parked.read_parked(engine, store="two")] == [3]


async def test_skipped_event_is_left_out_of_every_redis(engine: Engine) -> None:
    """Also out of one that parks it afterwards, as after it was emptied."""
    (one, two) = await register(engine, "a", "b")
    [followed] = await append(engine, one, two, UserFollowed())
    await parked.park(engine, [(followed.position, one, two, "odd")], store="one")
    assert await parked.mark_skipped(engine, followed.position, "kim", "a typo")
    await parked.park(engine, [(followed.position, one, two, "odd")], store="two")
    for store in ("one", "two", None):
        assert await parked.read_parked(engine, store=store) == []
        assert [row.skipped_by for row in await parked.read_parked(engine, skipped=True, store=store)] == ["kim"]
    assert await is_set_aside(engine, one, two) is None


async def test_what_is_parked_for_a_redis_that_is_not_fed_refuses_no_command(engine: Engine) -> None:
    """While another one is fed: the service has moved there. While none is, the workers may come back to any."""
    (one, two) = await register(engine, "a", "b")
    [followed] = await append(engine, one, two, UserFollowed())
    await parked.park(engine, [(followed.position, one, two, "odd")], store="one")
    assert await is_set_aside(engine, one, two) == followed.position
    await leases.acquire_share(engine, ["group:0"], uuid4(), store="two")
    assert await is_set_aside(engine, one, two) is None
    await leases.acquire_share(engine, ["group:0"], uuid4(), store="one")
    assert await is_set_aside(engine, one, two) == followed.position


async def test_emptied_redis_is_another_one(
    engine: Engine, redis: RedisClient, raw_redis: Plain, sql: Sql, queue_url: str
) -> None:
    """Its workers take leases under its new word, nothing of the word before is left, and partitions stay as chosen."""
    await register(engine, "a")
    async with projecting(engine, redis, queue_of(queue_url), FAST):
        view = await up_to_date_view(engine, redis)
        before = await store_of(redis)
        raw_redis.flushdb()
        await until(lambda: _is_another(redis, view.generation))
        again = await up_to_date_view(engine, redis)
        store = await store_of(redis)
        assert store != before and again.partitions == view.partitions
        await until(lambda: _are_all_of(engine, store))
        assert actual(raw_redis, again) == expected(sql, again)
        await until(lambda: _is_forgotten(engine, before))


async def test_progress_of_another_redis_is_not_taken(engine: Engine, redis: RedisClient, queue_url: str) -> None:
    """Both workers publish on one channel, where the queue is shared."""
    await register(engine, "a")
    progress, queue = Progress(), queue_of(queue_url)
    reader, listener = Reader(redis, progress), Listener(queue, LogNames.applied_channel, progress.on_message)
    async with projecting(engine, redis, queue_of(queue_url), FAST):
        view = await up_to_date_view(engine, redis)
        assert await reader.view() == view
        await listener.start()
        await until(lambda: progress.generation == view.generation)
        position = progress.highest
        progress.on_message(progress_message(10**6, range(LEASE_GROUPS), view.generation + 1, None, {}, "another"))
        assert (progress.generation, progress.highest) == (view.generation, position)
        await listener.close()


async def _is_another(redis: RedisClient, generation: int) -> bool:
    view = await generations.live_view(redis)
    return view is not None and view.generation != generation


async def _are_all_of(engine: Engine, store: str) -> bool:
    held = await leases.list_leases(engine)
    return len(held) == LEASE_GROUPS and {lease.store for lease in held} == {store}


async def _is_forgotten(engine: Engine, store: str) -> bool:
    return await list_generations(engine, store) == []


async def is_set_aside(engine: Engine, subject: int, object_: int) -> int | None:
    """Return the position of the parked event because of which commands on the pair are refused."""
    async with engine.connect() as connection:
        [state] = await log.pair_states(connection, [(subject, object_)])
    return state.parked
