"""Every writer takes the log's lock before it draws its first position, and holds it until commit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from commands import bulk_follows, bulk_users
from commands.db.postgres import Engine
from commands.directory import Directory
from commands.events import UserFollowed
from commands.users import BroadcastChanges
from tests.support.log_writes import append, erase, locked_log, register, rows, waiting_writers
from tests.support.waiting import until

# The call of each writer. User 1 is live, 2 is erased, and the erasure of 3 has finished.
WRITERS = {
    "append_events": "SELECT append_events(ARRAY[1], ARRAY[9], ARRAY[1], ARRAY['UserFollowed'::event_type], "
    "ARRAY[NULL]::jsonb[], ARRAY[NULL]::uuid[], ARRAY[NULL]::bytea[])",
    "register_users": "SELECT register_users(ARRAY['new'], ARRAY['new'], ARRAY['New'], ARRAY['{}']::jsonb[])",
    "reregister_user": "SELECT reregister_user(3, 'again', 'Again', '{}')",
    "change_profile": "SELECT change_profile(1, 'other', NULL, '{}')",
    "put_broadcast": "SELECT put_broadcast(1, '{}', 5)",
    "end_broadcast": "SELECT end_broadcast(1)",
    "erase_user": "SELECT erase_user(1)",
    "end_follows": "SELECT end_follows(2, 10)",
    "import_follows": "INSERT INTO staged_follows VALUES (1, 1, 9); SELECT import_follows()",
    "import_users": "INSERT INTO staged_users (ord, id, default_login, default_name, profile) "
    "VALUES (1, 'new', 'new', 'New', '{}'); SELECT import_users(false)",
}


def test_list_of_writers_is_complete(sql: psycopg.Connection[Any]) -> None:
    """Every function that draws positions, itself or through ``append_own_events``, is tested here."""
    draws = rows(
        sql,
        """SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        AND prosrc ~ 'events_position|append_own_events' AND proname <> 'append_own_events'""",
    )
    assert {name for (name,) in draws} == set(WRITERS)


@pytest.mark.parametrize("writer", WRITERS)
async def test_writer_draws_no_position_before_it_has_the_lock(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, writer: str
) -> None:
    await _people(engine)
    before = rows(sql, "SELECT last_value FROM events_position")
    with locked_log(database_url) as holder, _calling(database_url, writer) as call:
        await until(lambda: waiting_writers(sql) == 1)
        assert call.is_alive() and rows(sql, "SELECT last_value FROM events_position") == before
        holder.rollback()
    assert rows(sql, "SELECT last_value FROM events_position") > before


@pytest.mark.parametrize("writer", WRITERS)
async def test_writer_holds_the_lock_until_commit(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, writer: str
) -> None:
    await _people(engine)
    with psycopg.connect(database_url) as first:
        _stage(first)
        for statement in WRITERS[writer].split("; "):
            first.execute(statement.encode())
        with _calling(database_url, "append_events"):
            await until(lambda: waiting_writers(sql) == 1)
            first.commit()


async def _people(engine: Engine) -> None:
    """Register 1 (broadcasting), 2 (erased, with a follow left) and 3 (erasure finished)."""
    one, two, three = await register(engine, "one", "two", "three")
    assert (one, two, three) == (1, 2, 3)
    directory = Directory(engine)
    await directory.put_broadcast("one", BroadcastChanges(viewers=3))
    await append(engine, two, one, UserFollowed())
    await directory.erase("two")
    await erase(engine, "three")


@contextmanager
def _calling(database_url: str, writer: str) -> Iterator[threading.Thread]:
    """Run the writer on a connection of its own, and wait for it at the end."""

    def call() -> None:
        with psycopg.connect(database_url) as connection:
            _stage(connection)
            for statement in WRITERS[writer].split("; "):
                connection.execute(statement.encode())

    thread = threading.Thread(target=call)
    thread.start()
    yield thread
    thread.join()


def _stage(connection: psycopg.Connection[Any]) -> None:
    connection.execute(bulk_follows._STAGING)
    connection.execute(bulk_users._STAGING)
