"""The log's table and ``append_events``: append-only, in order, each row in or out by itself."""

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands import log
from commands.directory import Directory
from commands.events import AnyEvent, UserFollowed, UserUnfollowed
from commands.log import Draft
from commands.postgres import Engine
from tests.commands.writing import append, everything, locked_log, register, rows, waiting_writers
from tests.waiting import until

YEAR_US = 365 * 24 * 3600 * 1_000_000


@pytest.mark.parametrize("change", ["UPDATE events SET version = 9", "DELETE FROM events", "TRUNCATE events"])
async def test_the_log_is_append_only(engine: Engine, sql: psycopg.Connection[Any], change: str) -> None:
    """No statement takes an event back or changes it, not even by mistake."""
    await append(engine, 1, 2, UserFollowed(), UserUnfollowed())
    before = rows(sql, "SELECT * FROM events ORDER BY position")
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        sql.execute(change.encode())
    assert rows(sql, "SELECT * FROM events ORDER BY position") == before


async def test_events_are_read_as_they_were_appended(engine: Engine) -> None:
    """Pair, version, event and time come back, in the order of their positions, from any position on."""
    written = await append(engine, 1, 2, UserFollowed(notifications=True), UserUnfollowed(), UserFollowed(created_at=5))
    written += await append(engine, 2, 1, UserFollowed())
    assert await everything(engine) == written
    assert [event.version for event in written] == [1, 2, 3, 1]
    assert await log.read_after(engine, written[0].position, 2) == written[1:3]
    async with engine.connect() as connection:
        assert await log.events_at(connection, [written[2].position, 10**9]) == {written[2].position: written[2]}


async def test_one_batch_is_in_the_order_of_its_drafts(engine: Engine) -> None:
    """Positions and times rise with the place in the batch: the first asked is the first recorded."""
    drafts = [Draft(number, 1000 - number, 1, UserFollowed()) for number in range(1, 200)]
    async with engine.connect() as connection:
        appended = await log.append(connection, drafts)
    in_order = [appended[index] for index in range(len(drafts))]
    assert in_order == sorted(in_order)
    assert [(event.subject, event.object) for event in await everything(engine)] == [
        (draft.subject, draft.object) for draft in drafts
    ]


async def test_a_version_goes_to_the_first_who_asks(engine: Engine) -> None:
    """Two writers that decided on the same state: one row goes in, and the other's neighbours do too."""
    await append(engine, 1, 2, UserFollowed())
    async with engine.connect() as connection:
        both = [Draft(1, 2, 1, UserFollowed()), Draft(1, 3, 1, UserFollowed()), Draft(1, 2, 2, UserUnfollowed())]
        appended = await log.append(connection, both[:2])
        assert set(appended) == {1}
        assert set(await log.append(connection, both[2:])) == {0}
    assert [(event.object, event.version) for event in await everything(engine)] == [(2, 1), (3, 1), (2, 2)]


async def test_nobody_follows_or_is_followed_once_erased(engine: Engine) -> None:
    """An erasure that is under way cannot be outrun: append itself refuses, whatever was decided before."""
    alice, bob, carol = await register(engine, "alice", "bob", "carol")
    await Directory(engine).erase("bob")
    async with engine.connect() as connection:
        drafts = [Draft(*pair, 1, UserFollowed()) for pair in [(alice, bob), (bob, carol), (alice, carol)]]
        assert set(await log.append(connection, drafts)) == {2}


async def test_a_key_that_has_its_answer_appends_nothing(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Of two requests with one Idempotency-Key only the first writes, in whatever process they are."""
    key = uuid4()
    async with engine.connect() as connection:
        first = await log.append(connection, [Draft(1, 2, 1, UserFollowed(), key, b"hash")])
        again = [Draft(1, 2, 2, UserUnfollowed(), key, b"hash"), Draft(3, 2, 1, UserFollowed(), uuid4(), b"hash")]
        assert set(await log.append(connection, again)) == {1}
    kept = rows(sql, "SELECT request_hash, position FROM command_answers WHERE command_id = %s", [key])
    assert kept == [(b"hash", first[0][0])]


async def test_time_rises_with_the_position_whatever_the_clock_does(
    engine: Engine, sql: psycopg.Connection[Any]
) -> None:
    """A clock that was ahead leaves a last event in the future: what follows is later still, each by itself."""
    sql.execute(
        "INSERT INTO events (position, subject, object, version, type, recorded_at) "
        "VALUES (nextval('events_position'), 1, 2, 1, 'UserFollowed', now() + interval '1 year')"
    )
    async with engine.connect() as connection:
        await log.append(connection, [Draft(3, number, 1, UserFollowed()) for number in range(10, 20)])
    await register(engine, "alice", "bob")
    await append(engine, 1, 2, UserUnfollowed())
    times = [event.recorded_at for event in await everything(engine)]
    assert times == sorted(set(times)) and len(times) == 14
    assert times[-1] - times[0] < 1000, "only as far ahead as need be"


async def test_the_last_time_counts_in_the_order_of_the_log(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Ordinary appends carry the server's own time."""
    await append(engine, 1, 2, UserFollowed())
    head = await log.head(engine)
    assert 0 <= head.now - head.recorded_at < 60_000_000
    (seconds,) = rows(sql, "SELECT extract(epoch FROM clock_timestamp())::bigint")[0]
    assert abs(head.now // 1_000_000 - seconds) <= 1


async def test_the_head_of_an_empty_log(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """A log has its identity from the start; its end is position 0 until something has happened."""
    head = await log.head(engine)
    assert (head.position, head.recorded_at) == (0, 0)
    assert [(head.epoch,)] == rows(sql, "SELECT epoch FROM log_identity")
    assert await log.recorded_after(engine, 0) is None
    (event,) = await append(engine, 1, 2, UserFollowed())
    assert (await log.head(engine)).position == event.position
    assert await log.recorded_after(engine, 0) == event.recorded_at
    assert await log.recorded_after(engine, event.position) is None


async def test_a_reader_gets_no_more_than_is_good_for_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is asked for, a batch has a bound."""
    monkeypatch.setattr(log, "READ_LIMIT_MAX", 3)
    facts: list[AnyEvent] = [UserFollowed(), UserUnfollowed()]
    await append(engine, 1, 2, *facts * 3)
    assert len(await log.read_after(engine, 0, 100)) == 3


async def test_a_wrong_array_stops_the_whole_call(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """A call is one unit: when it fails, nothing of it is in the log, and no answer is kept."""
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        sql.execute(
            "SELECT append_events(ARRAY[1, 1], ARRAY[2, 3], ARRAY[1, 1], "
            "ARRAY['UserFollowed', 'NoSuchThing']::text[]::event_type[], ARRAY[NULL, NULL]::jsonb[], "
            "ARRAY[%s, NULL]::uuid[], ARRAY['x', NULL]::bytea[])",
            [uuid4()],
        )
    assert await everything(engine) == [] and rows(sql, "SELECT * FROM command_answers") == []


async def test_numbers_beyond_64_bits_do_not_reach_the_log(engine: Engine) -> None:
    """A position, a number and a version have their bounds; the bounds themselves are fine."""
    (event,) = await append(engine, 2**63 - 1, 1, UserFollowed(created_at=2**52 - 1))
    assert (await everything(engine))[0] == event


async def test_a_time_is_taken_when_the_lock_is_had(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """Who waited for the lock stamps his event after whatever was written meanwhile, also by a clock that is ahead."""
    with locked_log(database_url) as holder:
        appending = asyncio.create_task(append(engine, 1, 2, UserFollowed()))
        await until(lambda: waiting_writers(sql) == 1)
        holder.execute(
            """INSERT INTO events (position, subject, object, version, type, recorded_at)
            VALUES (nextval('events_position'), 3, 4, 1, 'UserFollowed', now() + interval '1 hour')"""
        )
        holder.commit()
    await appending
    first, second = await everything(engine)
    assert first.subject == 3 and second.recorded_at > first.recorded_at
