"""A worker killed before and after each step of its loop: whoever comes after him ends where the log does."""

from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import psycopg
import pytest

from commands import directory, log, parking
from commands.events import AnyEvent, UserFollowed, UserUnfollowed
from commands.postgres import Engine
from commands.users import UserChanges
from projections import generations
from projections.catch_up import Projector
from projections.store import Script, Store
from projections.unparking import retry
from tests.commands.writing import append, register
from tests.opened import Plain
from tests.projections.histories import VIEW, Killed, World
from tests.projections.model import actual, expected, positions
from tests.projections.test_unparking import make_readable, write_badly

# What a step does outside of the process, in its order.
STEPS: dict[str, tuple[Any, str]] = {
    "read the checkpoints": (generations, "_checkpoint"),
    "compare with the log": (log, "recorded_at"),
    "read what is parked": (parking, "parked"),
    "read the log": (log, "read_after"),
    "park": (parking, "park"),
    "park behind": (parking, "park_behind"),
    "read the rows": (directory, "profiles"),
    "read the given-up names": (directory, "released_logins"),
}


@pytest.fixture
async def world(engine: Engine, store: Store, sql: psycopg.Connection[Any], redis: Plain) -> AsyncIterator[World]:
    """Begun, with four users whom the view has."""
    begun = World(engine, store, sql, redis)
    await begun.begin()
    await register(engine, "u1", "u2", "u3", "u4")
    await begun.catch_up()
    yield begun
    await begun.end()


async def happen(world: World) -> int:
    """Follows, renames, an event that cannot be read and one behind it; the position of the former."""
    for number in (2, 3, 4):
        await append(world.engine, 1, number, UserFollowed())
    await world.people.put("u2", UserChanges(username="renamed"))
    bad = write_badly(world, (3, 4), 1)
    async with world.engine.connect() as connection:
        await log.append(connection, [log.Draft(3, 4, 2, UserUnfollowed())])
    await world.people.put("u3", UserChanges(username="u2"))
    await append(world.engine, 1, 3, UserUnfollowed())
    events: list[AnyEvent] = [UserFollowed(), UserUnfollowed(), UserFollowed(notifications=True)]
    await append(world.engine, 4, 1, *events)
    return bad


async def work(world: World, store: Store, fence: int) -> None:
    """What a worker does with small batches until there is nothing left, or he dies."""
    projector = Projector(world.engine, store, VIEW, dict.fromkeys(range(VIEW.lanes), fence), world.epoch)
    try:
        await projector.load()
        while await projector.step(3):
            await projector.refresh_parked()
        await projector.settle()
        await projector.check()
    finally:
        await projector.close()


async def ended_well(world: World, bad: int) -> None:
    """Only the bad pair waits, all else is as the log says; and when the bad event can be read, everything is."""
    assert [row.position for row in await parking.parked(world.engine)] == [bad, bad + 1]
    assert positions(world.redis, VIEW) == [(await log.head(world.engine)).position] * VIEW.lanes
    make_readable(world, bad)
    await retry(world.engine, world.store, VIEW, 3, 4)
    assert actual(world.redis, VIEW) == expected(world.sql, VIEW)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_a_step(world: World, monkeypatch: pytest.MonkeyPatch, step: str, done: bool) -> None:
    """One after the other, at the first time the step comes, the second, and so on, until somebody gets through."""
    place, name = STEPS[step]
    real: Callable[..., Any] = getattr(place, name)
    bad = await happen(world)
    deaths = 0
    while True:
        left = deaths

        async def dies(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and not done:
                raise Killed
            answer = await real(*arguments, **options)
            if left < 0:
                raise Killed
            return answer

        with monkeypatch.context() as patch:
            patch.setattr(place, name, dies)
            try:
                await work(world, world.store, 10 + deaths)
            except Killed:
                deaths += 1
            else:
                break
    assert deaths > 0, "the step was never taken"
    await ended_well(world, bad)


class Dying:
    """A store that is gone with its owner before or after the so-manieth script has arrived."""

    def __init__(self, store: Store, left: int, *, done: bool) -> None:
        self._store, self._left, self._done = store, left, done

    async def run(self, script: Script, keys: Any, arguments: Any) -> Any:
        """Pass on, or die."""
        self._left -= 1
        if self._left < 0 and not self._done:
            raise Killed
        answer = await self._store.run(script, keys, arguments)
        if self._left < 0:
            raise Killed
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_killed_at_any_apply(world: World, done: bool) -> None:
    """Each lane of each batch, one by one: those before it have theirs, those after it have not."""
    bad = await happen(world)
    deaths = 0
    while True:
        try:
            await work(world, cast(Store, Dying(world.store, deaths, done=done)), 10 + deaths)
        except Killed:
            deaths += 1
        else:
            break
    assert deaths > 5
    await ended_well(world, bad)
