"""An event that cannot be projected is parked with its pair, told of, and never skipped; everything else goes on."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from commands import log, parking
from commands.events import UserFollowed, UserUnfollowed
from commands.log import Draft
from commands.postgres import Engine
from commands.users import UserChanges
from projections import catch_up
from projections.catch_up import Broken, Projector
from projections.store import Store
from tests.commands.writing import append
from tests.opened import Plain
from tests.projections.histories import VIEW, World
from tests.projections.model import actual, expected, positions


@pytest.fixture
async def world(engine: Engine, store: Store, sql: psycopg.Connection[Any], redis: Plain) -> AsyncIterator[World]:
    """Begun: an empty log, a prepared view, a worker."""
    begun = World(engine, store, sql, redis)
    await begun.begin()
    yield begun
    await begun.end()


def write_badly(world: World) -> None:
    """An event of pair (3, 4) that this version cannot read, as a newer one might leave it, and one behind it."""
    for version, type_, data in [(1, "UserFollowed", '{"notifications": 5}'), (2, "UserUnfollowed", None)]:
        world.sql.execute(
            """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
            VALUES (nextval('events_position'), 3, 4, %s, %s, next_recorded_at(), %s)""",
            [version, type_, data],
        )


async def test_what_cannot_be_read_is_parked(world: World) -> None:
    """With what comes later on its pair, in the same batch and in those after it; the neighbours are projected."""
    await append(world.engine, 1, 2, UserFollowed())
    write_badly(world)
    await append(world.engine, 4, 3, UserFollowed())
    await world.catch_up()
    await append(world.engine, 3, 4, UserFollowed())
    await world.succeed()
    await world.catch_up()
    waiting = await parking.parked(world.engine)
    assert [(row.position, row.subject, row.object) for row in waiting] == [(2, 3, 4), (3, 3, 4), (5, 3, 4)]
    assert "cannot be read" in waiting[0].reason and "waits behind" in waiting[1].reason
    assert positions(world.redis, VIEW) == [5] * 4
    assert set(actual(world.redis, VIEW)) == {
        VIEW.following(1),
        VIEW.followers(2),
        VIEW.following(4),
        VIEW.followers(3),
    }


async def test_what_a_lane_refuses_is_found_and_parked(world: World) -> None:
    """Among many in a batch: only the culprits' pairs wait, and the lane goes on."""
    world.redis.set(VIEW.followers(2), "not a list")
    for subject in range(10, 30):
        await append(world.engine, subject, 2 if subject in (13, 21) else 6, UserFollowed())
    await append(world.engine, 13, 2, UserUnfollowed())
    await world.people.put("alice", UserChanges())
    await world.catch_up()
    waiting = [(row.subject, row.object) for row in await parking.parked(world.engine)]
    assert sorted(waiting) == [(13, 2), (13, 2), (21, 2)]
    assert world.redis.zcard(VIEW.followers(6)) == 18
    assert positions(world.redis, VIEW) == [(await log.head(world.engine)).position] * 4


async def test_a_server_that_refuses_everything_parks_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no bad event but a bad server or a fault of ours: stop, keep the place, and go on when it is mended."""
    monkeypatch.setattr(catch_up, "PARKED_MAX", 3)
    others = range(10, 15)
    for other in others:
        world.redis.set(VIEW.followers(4 * other), "not a list")
        await append(world.engine, other, 4 * other, UserFollowed())
    with pytest.raises(Broken):
        await world.catch_up()
    assert await parking.parked(world.engine) == [] and positions(world.redis, VIEW)[0] == 0
    world.redis.delete(*[VIEW.followers(4 * other) for other in others])
    await world.succeed()
    await world.catch_up()
    assert actual(world.redis, VIEW) == expected(world.sql, VIEW)


async def test_a_replay_parks_the_same_again(world: World) -> None:
    """A successor that reads the events anew neither loses nor doubles what is parked."""
    write_badly(world)
    await world.catch_up()
    before = await parking.parked(world.engine)
    for lane in range(4):
        world.redis.hset(VIEW.checkpoint(lane), mapping={"position": 0, "stamp": 0})
    await world.succeed()
    await world.catch_up()
    assert await parking.parked(world.engine) == before and len(before) == 2


async def test_who_was_overtaken_knows_what_was_parked_meanwhile(world: World) -> None:
    """A worker who takes over while the one before still works comes past an unreadable event without reading it; what
    comes later on its pair waits all the same, in every lane."""
    successor = Projector(world.engine, world.store, VIEW, dict.fromkeys((0, 3), world.fence), world.epoch)
    await successor.load()
    await append(world.engine, 3, 8, UserFollowed())
    write_badly(world)
    await world.catch_up()
    assert await successor.step(1) == 1 and set(successor.reached.values()) == {3}
    async with world.engine.connect() as connection:
        await log.append(connection, [Draft(3, 4, 3, UserFollowed())])
    await successor.step()
    await world.catch_up()
    assert [row.position for row in await parking.parked(world.engine)] == [2, 3, 4]
    assert set(actual(world.redis, VIEW)) == {VIEW.following(3), VIEW.followers(8)}
    assert world.redis.zcard(VIEW.following(3)) == 1
    await successor.close()
