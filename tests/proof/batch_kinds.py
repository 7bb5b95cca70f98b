"""A log and a view of four partitions outside of pytest, and batches of every kind for a worker to project."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import psycopg
from redis import Redis

from commands.coordination import parked
from commands.db.postgres import PostgresSettings, create_engine
from commands.directory import Directory
from commands.log import event_log as log
from projections.client.client import RedisClientSettings, open_redis
from projections.verify.retry_parked import retry
from tests.support.random_histories import VIEW, World
from tests.support.unreadable_events import make_readable, write_unreadable
from tests.support.view_model import actual, expected, positions

# Kind of batch -> the actions of tests/support/random_histories.py that it is made of.
ACTIONS: Final = {
    "follows": ("follow",),
    "unfollows": ("unfollow", "follow"),
    "notifications": ("change_notifications",),
    "imported follows": ("import_follow",),
    "profiles": ("change_profile",),
    "renames": ("rename",),
    "broadcasts": ("broadcast", "end_broadcast"),
    "erasures": ("erase", "end_follows", "rename"),
    "unreadable events": ("follow", "unfollow", "unreadable"),
    "refused by a partition": ("follow", "unfollow", "rename"),
    "everything": (
        "follow",
        "unfollow",
        "change_notifications",
        "import_follow",
        "change_profile",
        "rename",
        "broadcast",
        "end_broadcast",
        "erase",
        "end_follows",
    ),
}
KINDS: Final = tuple(ACTIONS)
BEFORE: Final = 40
BATCH: Final = 14
# First user number of pairs with unreadable events. No other action uses them, so they are parked for one reason only.
UNREADABLE: Final = 90


@asynccontextmanager
async def open_world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    """Yield a world on an own database and an own Redis; it is not begun."""
    async with AsyncExitStack() as stack:
        engine = create_engine(PostgresSettings(database_url, allow_async_commit=True))
        stack.push_async_callback(engine.dispose)
        redis = open_redis(RedisClientSettings(redis_url))
        stack.push_async_callback(redis.close)
        sql = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        raw_redis: Any = stack.enter_context(Redis.from_url(redis_url))
        world = World(engine, redis, sql, raw_redis)
        stack.push_async_callback(world.end)
        yield world


async def prepare_world(world: World, kind: str, rng: random.Random) -> None:
    """Begin the world with some projected history, so that a batch of this kind has something to end or change."""
    await world.begin()
    world.people = Directory(world.engine)  # without the cached numbers of an earlier world
    await run_actions(world, [rng.choice(ACTIONS["everything"][:-2]) for _ in range(BEFORE)], rng)
    await world.catch_up()
    await world.end()
    if kind == "refused by a partition":
        for number in (1, 2):
            world.raw_redis.delete(VIEW.following(number))
            world.raw_redis.set(VIEW.following(number), "not a list")


async def append_batch(world: World, kind: str, rng: random.Random) -> None:
    """Append a batch of this kind to the log."""
    await run_actions(world, [rng.choice(ACTIONS[kind]) for _ in range(BATCH)], rng)
    if kind == "refused by a partition":  # a write to each broken list is always among them
        for follower in (0, 1):
            await world.unfollow(follower, 0)
            await world.follow(follower, 0)


async def run_actions(world: World, actions: list[str], rng: random.Random) -> None:
    """Run these actions on random users."""
    for name in actions:
        one, two = rng.randrange(4), rng.randrange(4)
        if name == "unreadable":
            append_unreadable(world, (UNREADABLE + one, UNREADABLE + two + 4))
        else:
            await getattr(world, name)(one, two)


def append_unreadable(world: World, pair: tuple[int, int]) -> None:
    """Append an event that this version of the code cannot read to the pair."""
    [(version,)] = world.sql.execute("SELECT count(*) FROM events WHERE subject = %s AND object = %s", pair).fetchall()
    write_unreadable(world.sql, pair, version + 1)


async def differences(world: World) -> list[str]:
    """Repair and retry the parked events; return the differences between view and log that are left."""
    for row in await parked.read_parked(world.engine):
        make_readable(world.sql, row.position)
    for pair in sorted({(row.subject, row.object) for row in await parked.read_parked(world.engine)}):
        await retry(world.engine, world.redis, VIEW, *pair)
    found: list[str] = []
    stand, head = positions(world.raw_redis, VIEW), (await log.head(world.engine)).position
    if stand != [head] * VIEW.partitions:
        found.append(f"the partitions are at {stand}, the log ends at {head}")
    view, fold = actual(world.raw_redis, VIEW), expected(world.sql, VIEW)
    found += [f"{key} is {view.get(key)}, not {fold.get(key)}" for key in view | fold if view.get(key) != fold.get(key)]
    return found
