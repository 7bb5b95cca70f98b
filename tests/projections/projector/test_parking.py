"""Parking: an event that cannot be projected is parked with its pair and logged; everything else goes on."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from redis.exceptions import ResponseError

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.log.event_log import Draft
from commands.users import UserChanges
from projections.client.client import RedisClient
from projections.errors import BatchRefused, LogChanged
from projections.projector.projector import Projector
from tests.support.fixtures import Plain
from tests.support.log_writes import append, lose_tail
from tests.support.random_histories import VIEW, World
from tests.support.unreadable_events import append_behind, write_unreadable
from tests.support.view_model import actual, expected, positions


@pytest.fixture
async def world(
    engine: Engine, redis: RedisClient, sql: psycopg.Connection[Any], raw_redis: Plain
) -> AsyncIterator[World]:
    """An empty log, a prepared view, a worker."""
    begun = World(engine, redis, sql, raw_redis)
    await begun.begin()
    yield begun
    await begun.end()


async def append_unreadable(world: World) -> None:
    """Append an event of pair (3, 4) that this version cannot read, as a newer one might write it, and one behind."""
    write_unreadable(world.sql, (3, 4), 1)
    await append_behind(world.engine, (3, 4), 2, UserUnfollowed())


async def test_unreadable_event_is_parked_with_later_events_of_its_pair(world: World) -> None:
    """Later events of the same batch and of later ones; other pairs are projected."""
    await append(world.engine, 1, 2, UserFollowed())
    await append_unreadable(world)
    await append(world.engine, 4, 3, UserFollowed())
    await world.catch_up()
    await append(world.engine, 3, 4, UserFollowed())
    await world.start_successor()
    await world.catch_up()
    waiting = await parked.read_parked(world.engine)
    assert [(row.position, row.subject, row.object) for row in waiting] == [(2, 3, 4), (3, 3, 4), (5, 3, 4)]
    assert "cannot be read" in waiting[0].reason and "waits behind" in waiting[1].reason
    assert positions(world.raw_redis, VIEW) == [5] * 4
    assert set(actual(world.raw_redis, VIEW)) == {
        VIEW.following(1),
        VIEW.followers(2),
        VIEW.following(4),
        VIEW.followers(3),
    }


async def test_refused_event_among_many_is_found_and_parked(world: World) -> None:
    """Only the pairs of refused events wait, and the partition goes on."""
    world.raw_redis.set(VIEW.followers(2), "not a list")
    for subject in range(10, 30):
        await append(world.engine, subject, 2 if subject in (13, 21) else 6, UserFollowed())
    await append(world.engine, 13, 2, UserUnfollowed())
    await world.people.put("alice", UserChanges())
    await world.catch_up()
    waiting = [(row.subject, row.object) for row in await parked.read_parked(world.engine)]
    assert sorted(waiting) == [(13, 2), (13, 2), (21, 2)]
    assert world.raw_redis.zcard(VIEW.followers(6)) == 18
    assert positions(world.raw_redis, VIEW) == [(await log.head(world.engine)).position] * 4


async def test_more_refused_events_than_allowed_raises_batch_refused_and_parks_nothing(world: World) -> None:
    """The server or this version is at fault, not the events: projection goes on when that is repaired."""
    fences = dict.fromkeys(range(VIEW.partitions), world.fence)
    projector = Projector(world.engine, world.redis, VIEW, fences, parked_max=3)
    await projector.load()
    others = range(10, 15)
    for other in others:
        world.raw_redis.set(VIEW.followers(4 * other), "not a list")
        await append(world.engine, other, 4 * other, UserFollowed())
    with pytest.raises(BatchRefused, match="more than 3 operations"):
        await projector.step()
    assert await parked.read_parked(world.engine) == [] and positions(world.raw_redis, VIEW)[0] == 0
    world.raw_redis.delete(*[VIEW.followers(4 * other) for other in others])
    await world.start_successor()
    await world.catch_up()
    assert actual(world.raw_redis, VIEW) == expected(world.sql, VIEW)


async def test_event_that_the_log_has_lost_since_it_was_read_is_not_parked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later events of its pair would wait for nothing."""
    await append(world.engine, 1, 2, UserFollowed())
    await append_unreadable(world)
    park = parked.park

    async def lose_and_park(*arguments: Any) -> None:
        lose_tail(world.sql, 1)
        await append(world.engine, 5, 6, UserFollowed(), UserUnfollowed())
        await park(*arguments)

    monkeypatch.setattr(parked, "park", lose_and_park)
    with pytest.raises(LogChanged):
        await world.projector.step()
    assert await parked.read_parked(world.engine) == [] and positions(world.raw_redis, VIEW) == [0] * 4


async def test_replay_parks_same_events_again(world: World) -> None:
    """A successor that reads the events again neither loses nor doubles what is parked."""
    await append_unreadable(world)
    await world.catch_up()
    before = await parked.read_parked(world.engine)
    for partition in range(4):
        world.raw_redis.hset(VIEW.checkpoint(partition), mapping={"position": 0, "recorded_at": 0})
    await world.start_successor()
    await world.catch_up()
    assert await parked.read_parked(world.engine) == before and len(before) == 2


async def test_worker_that_passed_events_of_another_reads_what_that_parked(world: World) -> None:
    """A worker takes over while its predecessor still works, and passes an unreadable event without reading it.

    Later events of its pair wait all the same, in every partition.
    """
    successor = Projector(world.engine, world.redis, VIEW, dict.fromkeys((0, 3), world.fence))
    await successor.load()
    await append(world.engine, 3, 8, UserFollowed())
    await append_unreadable(world)
    await world.catch_up()
    assert await successor.step(1) == 1 and set(successor.read_to.values()) == {3}
    async with world.engine.connect() as connection:
        await log.append(connection, [Draft(3, 4, 3, UserFollowed())])
    await successor.step()
    await world.catch_up()
    assert [row.position for row in await parked.read_parked(world.engine)] == [2, 3, 4]
    assert set(actual(world.raw_redis, VIEW)) == {VIEW.following(3), VIEW.followers(8)}
    assert world.raw_redis.zcard(VIEW.following(3)) == 1
    await successor.close()


async def test_events_that_redis_lost_while_others_are_parked_are_projected_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server fails over without its last second just after it has refused the batch."""
    names = [VIEW.checkpoint(2), VIEW.followers(2)]
    saved = world.raw_redis.dump(names[0])
    await append(world.engine, 1, 2, UserFollowed())
    await world.catch_up()
    world.raw_redis.set(VIEW.followers(6), "not a list")
    await append(world.engine, 10, 6, UserFollowed())
    run, lost = world.redis.run, list[bool]()

    async def lose_after_the_first_refusal(*arguments: Any) -> Any:
        try:
            return await run(*arguments)
        except ResponseError:
            if not lost:
                lost.append(True)
                world.raw_redis.delete(*names)
                world.raw_redis.restore(names[0], 0, saved)
            raise

    monkeypatch.setattr(world.redis, "run", lose_after_the_first_refusal)
    await world.catch_up()
    assert lost and [row.position for row in await parked.read_parked(world.engine)] == [2]
    assert positions(world.raw_redis, VIEW) == [2] * 4
    assert world.raw_redis.zcard(VIEW.followers(2)) == 1
