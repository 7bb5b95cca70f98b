"""A log, a view of four lanes and a worker outside of pytest, and batches of every kind for the worker to project."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import psycopg
from redis import Redis

from commands import log, parking
from commands.directory import Directory
from commands.postgres import PostgresSettings, create_engine
from projections.store import StoreSettings, open_store
from projections.unparking import retry
from tests.projections.histories import VIEW, World
from tests.projections.model import actual, expected, positions
from tests.projections.test_unparking import make_readable, write_badly

# The deeds of tests/projections/histories.py that a batch of each kind is made of.
DEEDS: Final = {
    "follows": ("follow",),
    "unfollows": ("unfollow", "follow"),
    "notifications": ("ring",),
    "imported follows": ("bring",),
    "profiles": ("describe",),
    "renames": ("rename",),
    "broadcasts": ("live", "over"),
    "erasures": ("erase", "end", "rename"),
    "unreadable events": ("follow", "unfollow", "unreadable"),
    "refused by a lane": ("follow", "unfollow", "rename"),
    "everything": ("follow", "unfollow", "ring", "bring", "describe", "rename", "live", "over", "erase", "end"),
}
KINDS: Final = tuple(DEEDS)
BEFORE: Final = 40
BATCH: Final = 14
# Nobody else writes to this pair's lists, so what is parked of it is there for one reason only.
UNREADABLE: Final = 90


@asynccontextmanager
async def world_on(database_url: str, redis_url: str) -> AsyncIterator[World]:
    """A world on these two, which are its own; not begun."""
    async with AsyncExitStack() as stack:
        engine = create_engine(PostgresSettings(database_url))
        stack.push_async_callback(engine.dispose)
        store = open_store(StoreSettings(redis_url))
        stack.push_async_callback(store.close)
        sql = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        redis: Any = stack.enter_context(Redis.from_url(redis_url))
        world = World(engine, store, sql, redis)
        stack.push_async_callback(world.end)
        yield world


async def begin(world: World, kind: str, chance: random.Random) -> None:
    """Some history, projected; what a batch of this kind will end or change is there."""
    await world.begin()
    world.people = Directory(world.engine)  # the one before remembers numbers of people who never were
    await do(world, [chance.choice(DEEDS["everything"][:-2]) for _ in range(BEFORE)], chance)
    await world.catch_up()
    await world.end()
    if kind == "refused by a lane":
        for number in (1, 2):
            world.redis.delete(VIEW.following(number))
            world.redis.set(VIEW.following(number), "not a list")


async def happen(world: World, kind: str, chance: random.Random) -> None:
    """A batch of this kind is in the log."""
    await do(world, [chance.choice(DEEDS[kind]) for _ in range(BATCH)], chance)
    if kind == "refused by a lane":  # whatever else: what is broken is touched
        for follower in (0, 1):
            await world._unfollow(follower, 0)
            await world._follow(follower, 0)


async def do(world: World, deeds: list[str], chance: random.Random) -> None:
    """These deeds, by and with whom chance says."""
    for name in deeds:
        one, two = chance.randrange(4), chance.randrange(4)
        if name == "unreadable":
            unreadable(world, (UNREADABLE + one, UNREADABLE + two + 4))
        else:
            await getattr(world, f"_{name}")(one, two)


def unreadable(world: World, pair: tuple[int, int]) -> None:
    """An event that this version of the code cannot read, behind those that the pair has."""
    [(version,)] = world.sql.execute("SELECT count(*) FROM events WHERE subject = %s AND object = %s", pair).fetchall()
    write_badly(world, pair, version + 1)


async def wrong_with(world: World) -> list[str]:
    """What is not as the log says, once the parked events have been mended and let go."""
    for row in await parking.parked(world.engine):
        make_readable(world, row.position)
    for pair in sorted({(row.subject, row.object) for row in await parking.parked(world.engine)}):
        await retry(world.engine, world.store, VIEW, *pair)
    found: list[str] = []
    stand, head = positions(world.redis, VIEW), (await log.head(world.engine)).position
    if stand != [head] * VIEW.lanes:
        found.append(f"the lanes stand at {stand}, the log ends at {head}")
    view, fold = actual(world.redis, VIEW), expected(world.sql, VIEW)
    found += [f"{key} is {view.get(key)}, not {fold.get(key)}" for key in view | fold if view.get(key) != fold.get(key)]
    return found
