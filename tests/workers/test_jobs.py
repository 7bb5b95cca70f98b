"""The jobs by themselves: one drain is awake and the next is at the door, a sweep finds what a lost job left."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from arq.connections import ArqRedis

from commands.directory import Directory
from commands.erasure import unfinished
from commands.events import UserFollowed
from commands.postgres import Engine
from commands.users import UserChanges
from projections.keys import QUEUE
from projections.wakeup import QueueSettings, open_queue
from tests.commands.writing import append, everything, register, rows
from tests.waiting import until
from workers import jobs
from workers.jobs import Turn, drain, erase, sweep


class Awake:
    """In place of a drain: awake until it is told to end; counts its turns."""

    def __init__(self) -> None:
        self.turns = 0
        self.at_once = 0
        self.ends: asyncio.Queue[None] = asyncio.Queue()

    async def run(self, seconds: float) -> None:
        """A turn."""
        self.turns += 1
        self.at_once += 1
        assert self.at_once == 1, "two drains are awake"
        await self.ends.get()
        self.at_once -= 1


class Sent:
    """In place of the wake-up: what positions were told."""

    def __init__(self) -> None:
        self.positions: list[int] = []

    def send(self, position: int) -> None:
        """Note it."""
        self.positions.append(position)


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[ArqRedis]:
    """The queue as a worker has it."""
    opened = await open_queue(QueueSettings(queue_url))
    yield opened
    await opened.aclose()


@pytest.fixture
def context(engine: Engine, queue: ArqRedis) -> dict[str, Any]:
    """A worker's context."""
    return {
        "engine": engine,
        "redis": queue,
        "turn": Turn(),
        "drain": Awake(),
        "wakeup": Sent(),
        "worker": uuid4(),
        "housekeeping_at": float("inf"),
    }


async def enqueued(queue: ArqRedis) -> list[str]:
    """The ids of what waits in the queue, those of drains without the worker's."""
    ids = [id_.decode() for id_ in await queue.zrange(QUEUE, 0, -1)]
    return sorted(f"drain:{id_.split(':')[-1]}" if id_.startswith("drain:") else id_ for id_ in ids)


async def test_a_nudge_for_an_awake_drain_ends_at_once(context: dict[str, Any]) -> None:
    """It leaves no trace: the drain has heard of the event by itself."""
    awake: Awake = context["drain"]
    turn = asyncio.create_task(drain(context))
    await until(lambda: awake.turns == 1)
    for _ in range(5):
        await asyncio.wait_for(drain(context), 5)
    assert awake.turns == 1 and not turn.done()
    awake.ends.put_nowait(None)
    await turn


async def test_the_next_drain_waits_at_the_door_and_goes_on(context: dict[str, Any]) -> None:
    """Near the end of a turn one more comes in, one only, and takes over the moment the turn ends."""
    awake, turn = context["drain"], context["turn"]
    first = asyncio.create_task(drain(context))
    await until(lambda: awake.turns == 1)
    assert not turn.wants_another()
    turn.ends_at -= jobs.DRAIN_S - jobs.RELAY_S
    assert turn.wants_another()
    second = asyncio.create_task(drain(context))
    await until(lambda: turn.waiting)
    await asyncio.wait_for(drain(context), 5)
    assert not turn.wants_another() and awake.turns == 1
    awake.ends.put_nowait(None)
    await first
    await until(lambda: awake.turns == 2)
    assert turn.lock.locked() and not turn.waiting and not turn.wants_another()
    awake.ends.put_nowait(None)
    await second


async def test_a_drain_that_was_cut_off_makes_room(context: dict[str, Any]) -> None:
    """Cancelled while awake or while waiting at the door: the next one is wanted and gets in."""
    awake, turn = context["drain"], context["turn"]
    first = asyncio.create_task(drain(context))
    await until(lambda: awake.turns == 1)
    turn.ends_at = 0.0
    waiting = asyncio.create_task(drain(context))
    await until(lambda: turn.waiting)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert turn.wants_another(), "nobody waits any more"
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    awake.at_once = 0
    again = asyncio.create_task(drain(context))
    await until(lambda: awake.turns == 2)
    awake.ends.put_nowait(None)
    await again


async def test_a_sweep_sees_that_a_drain_is_awake(context: dict[str, Any], queue: ArqRedis) -> None:
    """None awake: one is enqueued, under a name that no finished or killed one has. One awake: none is."""
    await sweep(context)
    await sweep(context)
    assert await enqueued(queue) == ["drain:1", "drain:2"]
    turn = asyncio.create_task(drain(context))
    await until(lambda: context["drain"].turns == 1)
    await sweep(context)
    assert len(await enqueued(queue)) == 2
    context["turn"].ends_at = 0.0
    await sweep(context)
    assert len(await enqueued(queue)) == 3
    context["drain"].ends.put_nowait(None)
    await turn


async def test_a_sweep_finds_every_unfinished_erasure(context: dict[str, Any], queue: ArqRedis) -> None:
    """Once each, until it is finished: a job that was lost costs a second."""
    await register(context["engine"], "a", "b", "c")
    people = Directory(context["engine"])
    for id_ in ("a", "c"):
        await people.erase(id_)
    for _ in range(2):
        await sweep(context)
    assert [id_ for id_ in await enqueued(queue) if "erase" in id_] == ["erase:1", "erase:3"]
    await queue.flushdb()
    await erase(context, 1)
    await sweep(context)
    assert [id_ for id_ in await enqueued(queue) if "erase" in id_] == ["erase:3"]


async def test_an_erasure_goes_to_its_end_and_tells(context: dict[str, Any], engine: Engine) -> None:
    """Every follow ends, and the drains hear how far the log has come."""
    numbers = await register(engine, *[f"u{number}" for number in range(5)])
    for other in numbers[1:]:
        await append(engine, other, numbers[0], UserFollowed())
    await Directory(engine).erase("u0")
    await erase(context, numbers[0])
    assert await unfinished(engine) == []
    assert context["wakeup"].positions == [(await everything(engine))[-1].position]


async def test_an_erasure_that_takes_long_leaves_the_rest(
    context: dict[str, Any], engine: Engine, queue: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job has its time; what it leaves is found by the next sweep."""
    monkeypatch.setattr(jobs, "ERASE_S", 0.0)
    await register(engine, "a")
    await Directory(engine).erase("a")
    await erase(context, 1)
    assert await unfinished(engine) == [1]
    await sweep(context)
    assert "erase:1" in await enqueued(queue)


async def test_a_sweep_keeps_house(context: dict[str, Any], engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Now and then: what is too old to be of use is forgotten, what is young stays."""
    people = Directory(engine)
    for name in ("one", "two", "three"):
        await people.put("a", UserChanges(username=name))
    sql.execute("UPDATE released_logins SET released_at = now() - interval '2 days' WHERE login = 'one'")
    sql.execute(
        """INSERT INTO command_answers (command_id, request_hash, answered_at)
        VALUES (gen_random_uuid(), 'x', now() - interval '2 days'), (gen_random_uuid(), 'y', now())"""
    )
    await sweep(context)
    assert rows(sql, "SELECT count(*) FROM released_logins") == [(2,)]
    context["housekeeping_at"] = 0.0
    await sweep(context)
    assert rows(sql, "SELECT login FROM released_logins") == [("two",)]
    assert rows(sql, "SELECT request_hash FROM command_answers") == [(b"y",)]
    assert context["housekeeping_at"] > 0
