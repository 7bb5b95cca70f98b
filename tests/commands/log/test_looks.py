"""Looks at the log's end, on a real PostgreSQL: the head, its word, and which caller wrote the events after it."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from commands import erasure
from commands.db.identity import read_server_run
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.directory import Directory
from commands.errors import LogUnavailable
from commands.events import UserFollowed
from commands.log import event_log as log
from commands.log.looks import DIRECTORY, LOG_LOOK_TIMEOUT_S, LogLooks, Mark
from commands.users import BroadcastChanges, UserChanges
from tests.support.database_copies import base_backup
from tests.support.log_writes import append, lose_tail, register
from tests.support.proxy import Proxy, listening, postgres_socket, through_port


@pytest.fixture
async def looks(engine: Engine, database_url: str) -> AsyncIterator[LogLooks]:
    """Looks at the test's log."""
    made = LogLooks(PostgresSettings(database_url, allow_async_commit=True), engine)
    yield made
    await made.close()


async def test_look_returns_head_and_words(engine: Engine, looks: LogLooks) -> None:
    await register(engine, "ann", "bob", "cem")
    events = [*await append(engine, 1, 2, UserFollowed()), *await append(engine, 1, 3, UserFollowed())]
    words = await log.words_at(engine, [1, 3, 4, 5])
    found = await looks.look(4)
    assert (found.position, found.word, found.word_asked) == (5, words[5], words[4])
    assert (await looks.look(6)).word_asked is None, "beyond the head"
    assert (await looks.look(2)).word_asked == words[3], "inside a batch"
    written = await looks.written(3, 5)
    assert written.batches == [(event.position, words[event.position]) for event in events]


async def test_looks_batches_and_workers_name_one_run_of_a_server(
    database_url: str, engine: Engine, looks: LogLooks
) -> None:
    """Sessions in any time zone agree, and another server has another one: reports of workers are compared with it."""
    url = f"{database_url}&options=-c%20TimeZone%3DAsia/Kathmandu"
    elsewhere = create_engine(PostgresSettings(url, allow_async_commit=True))
    runs = [
        await read_server_run(engine),
        await read_server_run(elsewhere),
        (await log.read_slice(engine, 0, 10)).run,
        (await log.read_slice(elsewhere, 0, 10)).run,
        (await looks.look(0)).run,
    ]
    await elsewhere.dispose()
    assert len(set(runs)) == 1 and runs[0]
    with base_backup(database_url) as url:
        copy = create_engine(PostgresSettings(url, allow_async_commit=True))
        assert await read_server_run(copy) not in runs
        await copy.dispose()


async def test_look_at_an_empty_log(looks: LogLooks) -> None:
    found = await looks.look(0)
    assert found.position == 0 and found.word == found.word_asked is not None
    assert await looks.written(0, 0) == ([], [])


async def test_event_marks_its_user_for_both_users_that_it_touches(engine: Engine, looks: LogLooks) -> None:
    await register(engine, "ann", "bob")
    await append(engine, 1, 2, UserFollowed())
    for older in (False, True):
        assert (await looks.written(2, 3, older=older)).marks == [Mark("ann", 2, 3), Mark("ann", 1, 3)]
    assert (await looks.written(0, 2)).marks == [
        mark
        for number, name in ((1, "ann"), (2, "bob"))
        for mark in (Mark(name, number, number), Mark(name, 0, number))
    ]


Command = Callable[[Directory, str | None], Any]
COMMANDS: dict[str, Command] = {
    "register": lambda people, actor: people.put("new", UserChanges(), actor=actor),
    "change": lambda people, actor: people.put("bob", UserChanges(username="robert"), actor=actor),
    "put broadcast": lambda people, actor: people.put_broadcast("bob", BroadcastChanges(), actor=actor),
    "end broadcast": lambda people, actor: people.end_broadcast("live", actor=actor),
    "erase": lambda people, actor: people.erase("bob", actor=actor),
    "register again": lambda people, actor: people.put("gone", UserChanges(), actor=actor),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_command_of_a_service_marks_the_service_and_the_user(
    engine: Engine, looks: LogLooks, command: Command
) -> None:
    """And it returns the word by which the command is found in the log."""
    await register(engine, "bob", "live", "gone")
    people = Directory(engine)
    await people.put_broadcast("live", BroadcastChanges())
    await people.erase("gone")
    while (number := next(iter(await erasure.unfinished(engine)), None)) is not None:
        await erasure.end_some_follows(engine, number)
    before = (await looks.look(0)).position
    change = await command(people, "platform")
    found = await looks.look(change.position)
    assert (found.position, found.word) == (change.position, change.word) and change.position == before + 1
    marks = (await looks.written(before, found.position)).marks
    [number] = {mark.number for mark in marks} - {DIRECTORY}
    assert {mark.caller for mark in marks} == {"platform", (await _ids(engine))[number]}
    assert set(marks) == {
        Mark(mark.caller, touched, change.position) for mark in marks for touched in (number, DIRECTORY)
    }


async def _ids(engine: Engine) -> dict[int, str]:
    found = [await Directory(engine).find(name) for name in ("bob", "live", "gone", "new")]
    return {known.number: known.id for known in found if known is not None}


async def test_quiet_batches_mark_no_one_and_have_words(
    engine: Engine, looks: LogLooks, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """An import, and follows that end by an erasure, between commands of callers."""
    await register(engine, "ann", "bob", "cem")
    await append(engine, 1, 2, UserFollowed())
    await append(engine, 3, 1, UserFollowed())
    await Directory(engine).erase("bob")
    while not (await erasure.end_some_follows(engine, 2))[1]:
        pass
    sql.execute("SELECT setval('events_position', 10)")
    await append(engine, 1, 3, UserFollowed())
    head = (await looks.look(0)).position
    written = await looks.written(3, head)
    assert [mark.position for mark in written.marks if mark.caller != "bob"] == [4, 4, 5, 5, 11, 11]
    assert [last for last, _ in written.batches] == [4, 5, 6, 7, 11]
    for last, word in written.batches:
        assert (await log.words_at(engine, [last]))[last] == word


async def test_part_of_a_batch_is_read_with_the_batch_s_word(engine: Engine, looks: LogLooks) -> None:
    """Parts are cut by position, also inside a batch."""
    await register(engine, "ann", "bob", "cem")
    written = await looks.written(0, 2)
    assert [mark.position for mark in written.marks] == [1, 1, 2, 2] and [last for last, _ in written.batches] == [3]


async def test_event_that_was_inserted_by_hand_is_found(
    engine: Engine, looks: LogLooks, sql: psycopg.Connection[Any]
) -> None:
    """It is in no batch; that must not hide it."""
    await register(engine, "ann", "bob")
    sql.execute(
        """INSERT INTO events (position, subject, object, version, type, recorded_at)
        VALUES (nextval('events_position'), 1, 2, 1, 'UserFollowed', next_recorded_at())"""
    )
    found = await looks.look(3)
    assert (found.position, found.word) == (3, None)
    assert {mark.caller for mark in (await looks.written(2, 3)).marks} == {"ann"}


async def test_log_that_lost_its_tail_has_another_word_there(
    engine: Engine, looks: LogLooks, sql: psycopg.Connection[Any]
) -> None:
    await register(engine, "ann", "bob", "cem")
    await append(engine, 1, 2, UserFollowed())
    before = await looks.look(4)
    lose_tail(sql, 3)
    assert (await looks.look(4)).word_asked is None
    await append(engine, 1, 3, UserFollowed())
    after = await looks.look(4)
    assert after.position == before.position
    assert before.word is not None and after.word_asked is not None and after.word_asked != before.word


async def test_look_at_a_postgres_that_hangs_fails_in_time(engine: Engine, database_url: str) -> None:
    """On an open connection and on a new one; the next look works when it answers again."""
    async with listening(proxy := Proxy(postgres_socket(database_url))) as port:
        looks = LogLooks(PostgresSettings(through_port(database_url, port), allow_async_commit=True), engine)
        await looks.look(0)
        proxy.hang()
        for _ in range(3):
            before = time.monotonic()
            with pytest.raises(LogUnavailable):
                await looks.look(0)
            assert time.monotonic() - before < 3 * LOG_LOOK_TIMEOUT_S
        proxy.resume()
        assert (await looks.look(0)).position == 0
        await looks.close()


async def test_standby_is_no_look(engine: Engine, sql: psycopg.Connection[Any], database_url: str) -> None:
    """Its head may be behind what others have committed. The server is made to say that it is one."""
    sql.execute("CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    sql.execute(f"ALTER DATABASE {sql.info.dbname} SET search_path = public, pg_catalog".encode())
    looks = LogLooks(PostgresSettings(database_url, allow_async_commit=True), engine)
    with pytest.raises(LogUnavailable):
        await looks.look(0)
    await looks.close()
