"""The log's table and ``append_events``: append-only, in order, each row inserted or refused alone."""

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.events import AnyEvent, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.log.event_log import Draft
from tests.support.log_writes import append, everything, locked_log, register, rows, waiting_writers
from tests.support.waiting import until

YEAR_US = 365 * 24 * 3600 * 1_000_000


@pytest.mark.parametrize("change", ["UPDATE events SET version = 9", "DELETE FROM events", "TRUNCATE events"])
async def test_change_of_logged_event_is_refused(engine: Engine, sql: psycopg.Connection[Any], change: str) -> None:
    await append(engine, 1, 2, UserFollowed(), UserUnfollowed())
    before = rows(sql, "SELECT * FROM events ORDER BY position")
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        sql.execute(change.encode())
    assert rows(sql, "SELECT * FROM events ORDER BY position") == before


async def test_read_after_returns_events_as_appended(engine: Engine) -> None:
    """In the order of their positions, from any position on."""
    written = await append(engine, 1, 2, UserFollowed(notifications=True), UserUnfollowed(), UserFollowed(created_at=5))
    written += await append(engine, 2, 1, UserFollowed())
    assert await everything(engine) == written
    assert [event.version for event in written] == [1, 2, 3, 1]
    assert await log.read_after(engine, written[0].position, 2) == written[1:3]
    async with engine.connect() as connection:
        assert await log.events_at(connection, [written[2].position, 10**9]) == {written[2].position: written[2]}


async def test_batch_is_appended_in_order_of_its_drafts(engine: Engine) -> None:
    """Positions and times rise with the place in the batch."""
    drafts = [Draft(number, 1000 - number, 1, UserFollowed()) for number in range(1, 200)]
    async with engine.connect() as connection:
        appended = await log.append(connection, drafts)
    in_order = [appended[index] for index in range(len(drafts))]
    assert in_order == sorted(in_order)
    assert [(event.subject, event.object) for event in await everything(engine)] == [
        (draft.subject, draft.object) for draft in drafts
    ]


async def test_taken_version_is_refused_and_other_rows_are_appended(engine: Engine) -> None:
    await append(engine, 1, 2, UserFollowed())
    async with engine.connect() as connection:
        both = [Draft(1, 2, 1, UserFollowed()), Draft(1, 3, 1, UserFollowed()), Draft(1, 2, 2, UserUnfollowed())]
        appended = await log.append(connection, both[:2])
        assert set(appended) == {1}
        assert set(await log.append(connection, both[2:])) == {0}
    assert [(event.object, event.version) for event in await everything(engine)] == [(2, 1), (3, 1), (2, 2)]


async def test_append_refuses_follows_of_erased_users(engine: Engine) -> None:
    """Also a follow that was decided before the erasure."""
    alice, bob, carol = await register(engine, "alice", "bob", "carol")
    await Directory(engine).erase("bob")
    async with engine.connect() as connection:
        drafts = [Draft(*pair, 1, UserFollowed()) for pair in [(alice, bob), (bob, carol), (alice, carol)]]
        assert set(await log.append(connection, drafts)) == {2}


async def test_append_refuses_key_that_has_an_answer(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Of two requests with one Idempotency-Key only the first writes, in whatever process."""
    key = uuid4()
    async with engine.connect() as connection:
        first = await log.append(connection, [Draft(1, 2, 1, UserFollowed(), key, b"hash")])
        again = [Draft(1, 2, 2, UserUnfollowed(), key, b"hash"), Draft(3, 2, 1, UserFollowed(), uuid4(), b"hash")]
        assert set(await log.append(connection, again)) == {1}
    kept = rows(sql, "SELECT request_hash, position FROM command_answers WHERE command_id = %s", [key])
    assert kept == [(b"hash", first[0][0])]


def insert_later(sql: psycopg.Connection[Any], interval: str) -> None:
    """Insert an event with a time in the future, as a server does whose clock is ahead."""
    sql.execute(
        """INSERT INTO events (position, subject, object, version, type, recorded_at)
        VALUES (nextval('events_position'), 1, 2, 1, 'UserFollowed', now() + %s::interval)""",
        [interval],
    )


async def test_recorded_at_rises_with_position_when_clock_steps_back(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    insert_later(sql, "9 minutes")
    async with engine.connect() as connection:
        await log.append(connection, [Draft(3, number, 1, UserFollowed()) for number in range(10, 20)])
    await register(engine, "alice", "bob")
    await append(engine, 1, 2, UserUnfollowed())
    times = [event.recorded_at for event in await everything(engine)]
    assert times == sorted(set(times)) and len(times) == 14
    assert times[-1] - times[0] < 1000, "only as far ahead as need be"


async def test_clock_that_was_years_ahead_dates_only_what_it_stamped(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    insert_later(sql, "4 years")
    await append(engine, 3, 4, UserFollowed())
    await register(engine, "alice")
    head = await log.head(engine)
    assert head.now - head.recorded_at < YEAR_US
    assert (await everything(engine))[0].recorded_at > head.now + 3 * YEAR_US


async def test_each_batch_has_a_word_and_so_has_each_position_in_it(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    first = (await log.words_at(engine, [0, 1]))[0]
    async with engine.connect() as connection:
        one = await log.append_limited(connection, [Draft(1, number, 1, UserFollowed()) for number in (2, 3)], None)
        lost = await log.append_limited(connection, [Draft(1, 2, 1, UserFollowed())], None)
    await register(engine, "alice")
    head = await log.head(engine)
    begin, end = (position for position, _ in one.rows.values())
    words = await log.words_at(engine, [0, begin, end, head.position, head.position + 1])
    assert words == {0: first, begin: one.word, end: one.word, head.position: head.word}
    assert len({first, one.word, head.word}) == 3 and lost.word is None
    assert (await log.read_slice(engine, 0, 1)).word == one.word
    assert rows(sql, "SELECT quiet, actors FROM batches WHERE last_position > 0") == [(False, None)] * 2


async def test_event_inserted_by_hand_has_no_word_until_the_next_batch(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    insert_later(sql, "0 s")
    at = (await log.head(engine)).position
    assert await log.words_at(engine, [at]) == {at: None}
    await append(engine, 3, 4, UserFollowed())
    assert await log.words_at(engine, [at]) == {at: (await log.head(engine)).word}


async def test_recorded_at_is_the_servers_time(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    await append(engine, 1, 2, UserFollowed())
    head = await log.head(engine)
    assert 0 <= head.now - head.recorded_at < 60_000_000
    (seconds,) = rows(sql, "SELECT extract(epoch FROM clock_timestamp())::bigint")[0]
    assert abs(head.now // 1_000_000 - seconds) <= 1


async def test_head_of_empty_log_is_position_0(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """The log has its id from the start."""
    head = await log.head(engine)
    assert (head.position, head.recorded_at) == (0, 0)
    assert [(head.log_id,)] == rows(sql, "SELECT log_id FROM log_identity")
    assert await log.time_after(engine, 0) is None
    (event,) = await append(engine, 1, 2, UserFollowed())
    assert (await log.head(engine)).position == event.position
    assert await log.time_after(engine, 0) == event.recorded_at
    assert await log.time_after(engine, event.position) is None


async def test_read_after_returns_at_most_its_limit(engine: Engine) -> None:
    facts: list[AnyEvent] = [UserFollowed(), UserUnfollowed()]
    await append(engine, 1, 2, *facts * 3)
    assert len((await log.read_slice(engine, 0, 100, limit_max=3)).events) == 3


async def test_append_with_invalid_value_appends_nothing(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """No answer is stored, either."""
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        sql.execute(
            "SELECT append_events(ARRAY[1, 1], ARRAY[2, 3], ARRAY[1, 1], "
            "ARRAY['UserFollowed', 'NoSuchThing']::text[]::event_type[], ARRAY[NULL, NULL]::jsonb[], "
            "ARRAY[%s, NULL]::uuid[], ARRAY['x', NULL]::bytea[])",
            [uuid4()],
        )
    assert await everything(engine) == [] and rows(sql, "SELECT * FROM command_answers") == []


async def test_largest_numbers_are_appended(engine: Engine) -> None:
    (event,) = await append(engine, 2**63 - 1, 1, UserFollowed(created_at=2**52 - 1))
    assert (await everything(engine))[0] == event


async def test_recorded_at_is_taken_under_the_lock(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """A writer that waited for the lock records a later time than the writer before it, even one with a clock ahead."""
    with locked_log(database_url) as holder:
        appending = asyncio.create_task(append(engine, 1, 2, UserFollowed()))
        await until(lambda: waiting_writers(sql) == 1)
        holder.execute(
            """INSERT INTO events (position, subject, object, version, type, recorded_at)
            VALUES (nextval('events_position'), 3, 4, 1, 'UserFollowed', now() + interval '9 minutes')"""
        )
        holder.commit()
    await appending
    first, second = await everything(engine)
    assert first.subject == 3 and second.recorded_at > first.recorded_at
