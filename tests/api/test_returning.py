"""Who was answered while Redis was silent or away sees his follow in every process, or is told to come back: the
position that his reads must wait for could be left with nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from httpx import Response
from redis import Redis

from api.returning import Returning
from commands.events import UserFollowed, UserUnfollowed
from commands.postgres import Engine
from projections.keys import GROUPS
from projections.server import Server
from projections.wakeup import Progress, progress_message
from tests.api.in_process import InProcess, Person, environment, in_process
from tests.breakable import Breakable
from tests.commands.writing import append
from tests.opened import engine as engine
from tests.opened import fragile as fragile
from tests.waiting import until

PATH = "/v1/users/bob/follow"


@pytest.fixture
async def processes(fragile: Breakable, database_url: str, keys: Path) -> AsyncIterator[list[InProcess]]:
    """Two web processes that do not wait for the views, whose drain has ended; ann and bob are there, and both
    processes have read."""
    queue = fragile.url.replace("db=0", "db=1")
    settings = environment(database_url, fragile.url, queue, keys) | {"FOLLOWS_VISIBLE_WAIT_MS": "0"}
    with Redis.from_url(fragile.url) as client:
        client.flushall()
    async with AsyncExitStack() as stack:
        async with in_process(settings, keys) as service:
            for name in ("ann", "bob"):
                assert (await service.platform.put(f"/v1/users/{name}", json={})).status_code == 201
            await service.drained()
        both = [await stack.enter_async_context(in_process(settings, keys, drain=False)) for _ in range(2)]
        for service in both:
            assert not await service.as_("ann").follows(service.as_("bob"))
        yield both


@pytest.mark.parametrize("fault", ["frozen", "down"])
async def test_nobody_is_told_that_he_has_not_done_what_he_has(
    processes: list[InProcess], fragile: Breakable, fault: str
) -> None:
    """The other process is in the middle of a read when the server falls silent, as busy ones are."""
    one, other = (service.as_("ann") for service in processes)
    with getattr(fragile, fault)():
        before = await asked(processes[1], other)
        assert (await one.post(PATH)).status_code == 201
        after = await asked(processes[1], other)
    assert (await before).status_code in (200, 503)
    assert (await after).status_code == 503
    assert (await other.get(f"{PATH}-status")).status_code == 503  # nobody projects


async def asked(process: InProcess, person: Person) -> asyncio.Task[Response]:
    """Ask for the status; the question is on the way to Redis, or has been refused already."""
    sent = on_the_way(process)
    question = asyncio.create_task(person.get(f"{PATH}-status"))
    await until(lambda: question.done() or on_the_way(process) > sent)
    return question


def on_the_way(process: InProcess) -> int:
    """How many requests have been sent to Redis."""
    target = process.parts.store._target
    assert isinstance(target, Server) and target._wire is not None
    return target._wire._sent


async def test_a_second_return_while_the_first_is_waited_for(engine: Engine) -> None:
    """What the views hold of the first says nothing of what was committed until the second."""
    progress = Progress()
    returning = Returning(engine, progress)
    assert returning.over and await returning.position() == 0
    [first] = await append(engine, 1, 2, UserFollowed())
    returning.note()
    waiting = asyncio.create_task(returning.position())
    await until(lambda: progress._waiting)
    [second] = await append(engine, 1, 2, UserUnfollowed())
    returning.note()
    await until(lambda: returning._position == second.position)
    progress.hear(progress_message(first.position, range(GROUPS)))
    assert await waiting == second.position
    progress.hear(progress_message(second.position, range(GROUPS)))
    assert await returning.position() == 0 and returning.over
