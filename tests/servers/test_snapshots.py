"""Snapshots on Debian's Redis, which reads the oldest payloads, and checks each in full if it is told to."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from redis import Redis

from commands.db.postgres import Engine
from commands.events import FollowEvent, UserFollowed, UserUnfollowed
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from tests.servers.conftest import path_of
from tests.support.fixtures import Plain, engine, few, sql
from tests.support.log_writes import Connection, empty
from tests.support.packaged_servers import packaged_redis
from tests.support.servers import free_port
from tests.support.small_world import populate
from tests.support.snapshots import (
    BY_EVENTS,
    BY_SNAPSHOT,
    Drawn,
    Pair,
    both,
    check_resumed_after_each_step,
    drawn_events,
    filled,
    follow,
    history_of,
    pools,
    prepared,
    restores,
    whole,
)
from tests.support.view_model import actual, expected

__all__ = ["engine", "sql"]


@pytest.fixture(params=["no", "yes"])
def debian_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a Redis that checks payloads or does not."""
    port = free_port()
    settings = {"port": str(port), "sanitize-dump-payload": request.param}
    with packaged_redis(path_of("redis-server"), tmp_path, f"redis://127.0.0.1:{port}/0", settings) as server:
        yield server.url


@pytest.fixture
async def redis(debian_redis: str) -> AsyncIterator[RedisClient]:
    """A client of the product."""
    opened = open_redis(RedisClientSettings(debian_redis))
    yield opened
    await opened.close()


@pytest.fixture
def raw_redis(debian_redis: str) -> Iterator[Plain]:
    """A plain client."""
    with Redis.from_url(debian_redis) as client:
        yield client


async def test_snapshot_equals_the_projectors_view(
    engine: Engine, redis: RedisClient, sql: Connection, raw_redis: Plain
) -> None:
    """Lists of each encoding: numbers of 1 to 15 digits, and lengths up to one that takes several calls."""
    numbers = await populate(engine)
    members = [10**digits + digits for digits in range(1, 15)]
    history: list[tuple[Pair, FollowEvent]] = [
        ((number, one), UserFollowed(created_at=at))
        for one in members
        for at, number in enumerate([*members, 7])
        if one != number
    ]
    for key, length in ((numbers[0], 1_024), (numbers[1], 1_025), (numbers[2], 6_500)):
        history += [((20_000 + other, key), UserFollowed(created_at=other // 3)) for other in range(length)]
    history += [((members[0], members[3]), UserUnfollowed())]
    await follow(engine, history)
    await prepared(engine, redis, BY_EVENTS, snapshot=False)
    await filled(engine, redis, BY_EVENTS)
    assert restores(raw_redis) == 0
    await prepared(engine, redis, BY_SNAPSHOT)
    await filled(engine, redis, BY_SNAPSHOT)
    made = whole(raw_redis, BY_SNAPSHOT)
    assert made == whole(raw_redis, BY_EVENTS)
    assert restores(raw_redis) == sum(":follow" in key for key in made)
    assert actual(raw_redis, BY_SNAPSHOT).keys() >= expected(sql, BY_SNAPSHOT).keys()


@settings(few, max_examples=40)
@given(pools, drawn_events)
async def test_snapshot_of_any_numbers_and_times_equals_the_projectors_view(
    engine: Engine, redis: RedisClient, sql: Connection, raw_redis: Plain, pool: list[int], drawn: Drawn
) -> None:
    empty(sql)
    raw_redis.flushdb()
    await follow(engine, history_of(pool, drawn))
    await both(engine, redis, raw_redis)


@pytest.mark.parametrize("after", [False, True])
async def test_build_killed_at_any_step_is_resumed(
    engine: Engine, redis: RedisClient, sql: Connection, raw_redis: Plain, after: bool
) -> None:
    see = (raw_redis.flushdb), (lambda: actual(raw_redis, BY_SNAPSHOT)), (lambda: restores(raw_redis))
    await check_resumed_after_each_step(engine, redis, sql, *see, after=after)
