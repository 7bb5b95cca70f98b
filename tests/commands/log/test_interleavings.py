"""Promise 2: a reader never skips an event, whatever commits when. A naive writer is the control."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from commands.db.postgres import Engine
from commands.log import event_log as log
from tests.support.log_writes import rows
from tests.support.waiting import until

APPEND = (
    "SELECT append_events(ARRAY[{subject}], ARRAY[{object}], ARRAY[1], ARRAY['UserFollowed'::event_type], "
    "ARRAY[NULL]::jsonb[], ARRAY[NULL]::uuid[], ARRAY[NULL]::bytea[])"
)
INSERT = (
    "INSERT INTO events (position, subject, object, version, type, recorded_at) "
    "VALUES ({position}, {subject}, {object}, 1, 'UserFollowed', now())"
)
# The product: append_events as one step, and its own steps one by one.
AS_A_WHOLE = (APPEND,)
STEP_BY_STEP = ("SELECT pg_advisory_xact_lock(log_lock())", INSERT.replace("{position}", "nextval('events_position')"))
# A naive writer: it draws a position, and others may commit before it does.
NAIVE = ("SELECT nextval('events_position')", INSERT.replace("{position}", "currval('events_position')"))


@dataclass
class Writer:
    """A connection that runs its steps in order, each after it was queued and the one before has ended."""

    connection: psycopg.AsyncConnection[Any]
    steps: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def work(self) -> None:
        """Run steps for ever."""
        while True:
            step = await self.steps.get()
            await self.connection.execute(step.encode())
            self.steps.task_done()

    @property
    def idle(self) -> bool:
        """True when all queued steps have ended."""
        return not self.steps._unfinished_tasks  # type: ignore[attr-defined]


@pytest.mark.parametrize("steps", [AS_A_WHOLE, STEP_BY_STEP], ids=["as a whole", "step by step"])
async def test_reader_skips_no_event_in_any_order_of_two_writers(
    engine: Engine, database_url: str, steps: Sequence[str]
) -> None:
    """Each writer ends in commit or rollback, and the reader reads after every step."""
    assert await skipping_orders(engine, database_url, steps) == []


async def test_reader_skips_an_event_of_a_naive_writer(engine: Engine, database_url: str) -> None:
    """The control: without the lock the same harness finds orders in which the reader skips an event."""
    [(order, ends)] = await skipping_orders(engine, database_url, NAIVE, enough=1)
    assert ends[order[-1]] == "COMMIT", "who drew first and committed last is the one that is skipped"


async def skipping_orders(
    engine: Engine, database_url: str, steps: Sequence[str], enough: int = 1_000
) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Return the orders of steps (indexes of writers) and both ends in which a reader misses a committed event."""
    length = len(steps) + 1
    orders = sorted(set(itertools.permutations([0] * length + [1] * length)))
    pairs = itertools.count(1)
    found: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
    with psycopg.connect(database_url, autocommit=True) as sql:
        async with writers(database_url) as both:
            for order, ends in itertools.product(orders, itertools.product(("COMMIT", "ROLLBACK"), repeat=2)):
                scripts = [iter([*(_filled(step, next(pairs)) for step in steps), end]) for end in ends]
                if len(found) < enough and await _skips(
                    engine, sql, both, [(who, next(scripts[who])) for who in order]
                ):
                    found.append((order, ends))
    return found


async def _skips(
    engine: Engine, sql: psycopg.Connection[Any], both: Sequence[Writer], turns: Sequence[tuple[int, str]]
) -> bool:
    """Return True when a reader that reads after every turn has missed a committed event in the end."""
    start = (await log.head(engine)).position
    seen: list[int] = []
    for who, step in turns:
        both[who].steps.put_nowait(step)
        await until(lambda: all(writer.idle or _waits(sql, writer) for writer in both))
        await _read(engine, start, seen)
    await until(lambda: all(writer.idle for writer in both))
    await _read(engine, start, seen)
    committed = rows(sql, "SELECT position FROM events WHERE position > %s ORDER BY 1", [start])
    assert len(committed) == [step for _, step in turns].count("COMMIT")
    return seen != [position for (position,) in committed]


@asynccontextmanager
async def writers(database_url: str) -> AsyncIterator[list[Writer]]:
    """Run two writers."""
    async with (
        await psycopg.AsyncConnection.connect(database_url) as one,
        await psycopg.AsyncConnection.connect(database_url) as two,
        asyncio.TaskGroup() as group,
    ):
        both = [Writer(one), Writer(two)]
        tasks = [group.create_task(writer.work()) for writer in both]
        yield both
        for task in tasks:
            task.cancel()


def _filled(step: str, number: int) -> str:
    return step.format(subject=number, object=number + 1_000_000)


def _waits(sql: psycopg.Connection[Any], writer: Writer) -> bool:
    pid = writer.connection.info.backend_pid
    return bool(rows(sql, "SELECT FROM pg_locks WHERE pid = %s AND NOT granted", [pid]))


async def _read(engine: Engine, start: int, seen: list[int]) -> None:
    """Read after the last position seen, as a projector does."""
    seen += [event.position for event in await log.read_after(engine, seen[-1] if seen else start, 100)]
