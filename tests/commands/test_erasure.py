"""Ending the follows of erased users: in batches, on both sides, also when a worker is killed."""

import asyncio
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.erasure import end_some_follows, unfinished
from commands.events import NotificationsChanged, UserErased, UserFollowed, UserUnfollowed
from tests.support.fixtures import few
from tests.support.log_writes import append, empty, everything, locked_log, register, rows, waiting_writers
from tests.support.waiting import until

NEWEST = """SELECT DISTINCT ON (subject, object) subject, object, type::text FROM events
WHERE subject <> object ORDER BY subject, object, version DESC"""


async def test_erasure_ends_follows_on_both_sides_only_of_that_user(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    numbers = await register(engine, *[f"u{number}" for number in range(8)])
    erased, others = numbers[3], [*numbers[:3], *numbers[4:]]
    for other in others:
        await append(engine, erased, other, UserFollowed())
        await append(engine, other, erased, UserFollowed(), NotificationsChanged(True, 5))
    await append(engine, others[0], others[1], UserFollowed())
    await append(engine, erased, others[0], UserUnfollowed())
    await Directory(engine).erase("u3")
    ended = await _to_the_end(engine, erased, limit=3)
    assert sum(ended) == 13 and max(ended) <= 3 and await unfinished(engine) == []
    still = [(subject, object_) for subject, object_, type_ in rows(sql, NEWEST) if type_ != "UserUnfollowed"]
    assert still == [(others[0], others[1])]


@few
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.booleans()), max_size=30),
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.integers(1, 6), max_size=2),
)
async def test_erasure_after_random_history_leaves_no_follow(
    engine: Engine,
    sql: psycopg.Connection[Any],
    history: list[tuple[int, int, bool]],
    erased: int,
    limit: int,
    also: list[int],
) -> None:
    """In batches of any size, while others are erased; all other follows stay."""
    empty(sql)
    await register(engine, *[f"u{number}" for number in range(1, 7)])
    follows: set[tuple[int, int]] = set()
    for subject, object_, begin in history:
        if subject != object_ and begin != ((subject, object_) in follows):
            await append(engine, subject, object_, UserFollowed() if begin else UserUnfollowed())
            follows ^= {(subject, object_)}
    gone = {erased, *also}
    for number in gone:
        await Directory(engine).erase(f"u{number}")
    assert await unfinished(engine) == sorted(gone)
    for number in gone:
        await _to_the_end(engine, number, limit)
    still = {(subject, object_) for subject, object_, type_ in rows(sql, NEWEST) if type_ != "UserUnfollowed"}
    assert still == {pair for pair in follows if not gone & set(pair)}
    versions = rows(sql, "SELECT count(*), max(version) FROM events GROUP BY subject, object")
    assert all(total == newest for total, newest in versions)


async def test_killed_batch_is_rolled_back_and_done_again(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    numbers = await register(engine, *[f"u{number}" for number in range(6)])
    for other in numbers[1:]:
        await append(engine, numbers[0], other, UserFollowed())
    await Directory(engine).erase("u0")
    position, _ = await end_some_follows(engine, numbers[0], 2)
    before = rows(sql, "SELECT * FROM erasures")
    with psycopg.connect(database_url) as victim:
        victim.execute("SELECT end_follows(%s, 2)", [numbers[0]])
        sql.execute("SELECT pg_terminate_backend(%s)", [victim.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            victim.commit()
    assert rows(sql, "SELECT * FROM erasures") == before
    assert (await everything(engine))[-1].position == position
    assert sum(await _to_the_end(engine, numbers[0], 2)) == 3


async def test_job_for_finished_or_missing_erasure_changes_nothing(engine: Engine) -> None:
    alice, bob = await register(engine, "alice", "bob")
    await append(engine, bob, alice, UserFollowed())
    await Directory(engine).erase("alice")
    await _to_the_end(engine, alice, 10)
    length = len(await everything(engine))
    assert [await end_some_follows(engine, number) for number in (alice, bob, 99)] == [(None, True)] * 3
    assert len(await everything(engine)) == length


async def test_concurrent_workers_end_each_follow_once(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """One of them waits for the log's lock, and the other leaves it alone."""
    numbers = await register(engine, *[f"u{number}" for number in range(6)])
    for other in numbers[1:]:
        await append(engine, other, numbers[0], UserFollowed())
    await Directory(engine).erase("u0")
    with locked_log(database_url) as holder:
        waiting = asyncio.create_task(end_some_follows(engine, numbers[0], 3))
        await until(lambda: waiting_writers(sql) == 1)
        assert await end_some_follows(other_engine, numbers[0], 3) == (None, None)
        holder.rollback()
    await waiting
    await _to_the_end(engine, numbers[0], 3)
    ends = [event for event in await everything(engine) if isinstance(event.event, UserUnfollowed)]
    assert sorted(event.subject for event in ends) == numbers[1:]


async def test_user_erased_precedes_ends_of_follows(engine: Engine) -> None:
    alice, bob = await register(engine, "alice", "bob")
    await append(engine, alice, bob, UserFollowed())
    await Directory(engine).erase("alice")
    await _to_the_end(engine, alice, 10)
    assert [type(event.event) for event in await everything(engine)][-2:] == [UserErased, UserUnfollowed]


async def _to_the_end(engine: Engine, number: int, limit: int) -> list[int]:
    """End follows until it is finished; return how many follows each call ended, by the log."""
    ended: list[int] = []
    finished: bool | None = False
    while not finished:
        before = len(await everything(engine))
        position, finished = await end_some_follows(engine, number, limit)
        log = await everything(engine)
        ended.append(len(log) - before)
        assert position == (log[-1].position if ended[-1] else None)
        assert len(ended) < 100, "it does not come to an end"
    return ended
