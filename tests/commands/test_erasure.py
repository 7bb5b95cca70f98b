"""Ending the follows of the erased: in batches, on both sides, whoever dies in between, and none comes up behind it."""

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.directory import Directory
from commands.erasure import end_some_follows, unfinished
from commands.events import NotificationsChanged, UserErased, UserFollowed, UserUnfollowed
from commands.postgres import Engine
from tests.commands.writing import append, empty, everything, locked_log, register, rows, waiting_writers
from tests.opened import few
from tests.waiting import until

NEWEST = """SELECT DISTINCT ON (subject, object) subject, object, type::text FROM events
WHERE subject <> object ORDER BY subject, object, version DESC"""


async def test_every_follow_ends_on_both_sides(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Batch by batch: the erased one's own follows and those of his followers, and nobody else's."""
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
async def test_whatever_the_history_nothing_is_left(
    engine: Engine,
    sql: psycopg.Connection[Any],
    history: list[tuple[int, int, bool]],
    erased: int,
    limit: int,
    also: list[int],
) -> None:
    """Random histories and batch sizes, others erased meanwhile: no follow of an erased one stays, all others do."""
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


async def test_a_kill_leaves_whole_batches(engine: Engine, sql: psycopg.Connection[Any], database_url: str) -> None:
    """The connection is cut in the middle of a batch: as if that batch had never begun, and the next call does it."""
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


async def test_a_finished_erasure_stays_finished(engine: Engine) -> None:
    """Another job for the same user, or for one who never was erased, changes nothing."""
    alice, bob = await register(engine, "alice", "bob")
    await append(engine, bob, alice, UserFollowed())
    await Directory(engine).erase("alice")
    await _to_the_end(engine, alice, 10)
    length = len(await everything(engine))
    assert [await end_some_follows(engine, number) for number in (alice, bob, 99)] == [(None, True)] * 3
    assert len(await everything(engine)) == length


async def test_two_jobs_at_once_share_the_work(
    engine: Engine, other_engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """The job runs twice, both wait for the lock: each follow ends once."""
    import asyncio

    numbers = await register(engine, *[f"u{number}" for number in range(6)])
    for other in numbers[1:]:
        await append(engine, other, numbers[0], UserFollowed())
    await Directory(engine).erase("u0")
    with locked_log(database_url) as holder:
        both = asyncio.gather(*[end_some_follows(process, numbers[0], 3) for process in (engine, other_engine)])
        await until(lambda: waiting_writers(sql) == 2)
        holder.rollback()
    await both
    await _to_the_end(engine, numbers[0], 3)
    ends = [event for event in await everything(engine) if isinstance(event.event, UserUnfollowed)]
    assert sorted(event.subject for event in ends) == numbers[1:]


async def test_the_end_of_a_person_is_told_first(engine: Engine) -> None:
    """UserErased stands before the ends of the follows: readers know why the list shrinks."""
    alice, bob = await register(engine, "alice", "bob")
    await append(engine, alice, bob, UserFollowed())
    await Directory(engine).erase("alice")
    await _to_the_end(engine, alice, 10)
    assert [type(event.event) for event in await everything(engine)][-2:] == [UserErased, UserUnfollowed]


async def _to_the_end(engine: Engine, number: int, limit: int) -> list[int]:
    """Call the job's step until it is done; how many follows each call ended, by what it added to the log."""
    ended: list[int] = []
    finished = False
    while not finished:
        before = len(await everything(engine))
        position, finished = await end_some_follows(engine, number, limit)
        log = await everything(engine)
        ended.append(len(log) - before)
        assert position == (log[-1].position if ended[-1] else None)
        assert len(ended) < 100, "it does not come to an end"
    return ended
