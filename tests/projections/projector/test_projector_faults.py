"""A worker killed before and after each step of its loop: its successor brings the view to the log's end."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import AnyEvent, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.users import UserChanges
from projections.client.client import RedisClient
from projections.projector.projector import Projector
from projections.verify.retry_parked import retry
from tests.support.fixtures import Plain
from tests.support.intercepted_redis import Killed, killed_at
from tests.support.log_writes import append, register
from tests.support.projector_steps import STEPS
from tests.support.random_histories import VIEW, World
from tests.support.unreadable_events import make_readable, write_unreadable
from tests.support.view_model import actual, expected, positions


@pytest.fixture
async def world(
    engine: Engine, redis: RedisClient, sql: psycopg.Connection[Any], raw_redis: Plain
) -> AsyncIterator[World]:
    """Four users that are in the view."""
    begun = World(engine, redis, sql, raw_redis)
    await begun.begin()
    await register(engine, "u1", "u2", "u3", "u4")
    await begun.catch_up()
    yield begun
    await begun.end()


async def append_history(world: World) -> int:
    """Append follows, renames, an unreadable event and one behind it; return the position of the unreadable one."""
    for number in (2, 3, 4):
        await append(world.engine, 1, number, UserFollowed())
    await world.people.put("u2", UserChanges(username="renamed"))
    bad = write_unreadable(world.sql, (3, 4), 1)
    async with world.engine.connect() as connection:
        await log.append(connection, [log.Draft(3, 4, 2, UserUnfollowed())])
    await world.people.put("u3", UserChanges(username="u2"))
    await append(world.engine, 1, 3, UserUnfollowed())
    events: list[AnyEvent] = [UserFollowed(), UserUnfollowed(), UserFollowed(notifications=True)]
    await append(world.engine, 4, 1, *events)
    return bad


async def work(world: World, redis: RedisClient, fence: int) -> None:
    """Project in small batches until the log's end, as a worker does."""
    projector = Projector(world.engine, redis, VIEW, dict.fromkeys(range(VIEW.partitions), fence))
    try:
        await projector.load()
        while await projector.step(3):
            await projector.refresh_parked()
        await projector.write_checkpoints()
        await projector.check()
    finally:
        await projector.close()


async def assert_complete(world: World, bad: int) -> None:
    """Check that only the unreadable pair is parked, and that the view equals the log once it is retried."""
    assert [row.position for row in await parked.read_parked(world.engine)] == [bad, bad + 1]
    assert positions(world.raw_redis, VIEW) == [(await log.head(world.engine)).position] * VIEW.partitions
    make_readable(world.sql, bad)
    await retry(world.engine, world.redis, VIEW, 3, 4)
    assert actual(world.raw_redis, VIEW) == expected(world.sql, VIEW)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_worker_killed_at_step_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    """The first worker at the step's first call, the next at its second, and so on, until one gets through."""
    place, name = STEPS[step]
    real: Callable[..., Any] = getattr(place, name)
    bad = await append_history(world)
    kills = 0
    while True:
        left = kills

        async def killed(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                raise Killed
            answer = await real(*arguments, **options)
            if left < 0:
                raise Killed
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            try:
                await work(world, world.redis, 10 + kills)
            except Killed:
                kills += 1
            else:
                break
    assert kills > 0, "the step was never taken"
    await assert_complete(world, bad)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_worker_killed_at_any_apply_loses_nothing(world: World, after: bool) -> None:
    """At each partition of each batch: those before it have their operations, those after it do not."""
    bad = await append_history(world)
    kills = 0
    while True:
        try:
            await work(world, killed_at(world.redis, kills, after=after), 10 + kills)
        except Killed:
            kills += 1
        else:
            break
    assert kills > 5
    await assert_complete(world, bad)
