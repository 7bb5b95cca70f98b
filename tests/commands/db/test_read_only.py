"""A Postgres that takes no writes is not available: commands wait for one that does, and find it by themselves."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError

from commands import erasure, idempotency
from commands.bulk_follows import connect_import
from commands.coordination import leases, parked, pause, view_register
from commands.db.migrate import upgrade_database
from commands.db.postgres import Engine, PostgresSettings, check_server, create_engine, fetch
from commands.db.unavailable import translated_errors
from commands.decide import Follow
from commands.directory import Directory
from commands.errors import LogUnavailable
from commands.log import event_log as log
from commands.users import BroadcastChanges, UserChanges
from tests.support.log_writes import committing, everything, register
from tests.support.read_only import read_only

refused = pytest.raises(LogUnavailable, match="takes no writes")


async def test_writes_to_read_only_server_are_unavailable_until_it_takes_them(
    engine: Engine, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No restart is needed. The committer logs one line when it begins and one when it ends, with Postgres' words."""
    caplog.set_level("INFO", "commands.group_commit")
    alice, bob, carol = await register(engine, "alice", "bob", "carol")
    people = Directory(engine)
    async with committing(engine) as commits:
        await commits.send(Follow(alice, bob))
        with read_only(database_url):
            for _ in range(3):
                with refused:
                    await commits.send(Follow(alice, carol))
            for call in (
                lambda: people.put("alice", UserChanges(bio="x")),
                lambda: people.put_broadcast("alice", BroadcastChanges()),
                lambda: people.end_broadcast("alice"),
                lambda: people.erase("alice"),
                lambda: erasure.end_some_follows(engine, alice),
                lambda: leases.acquire(engine, "x", uuid4()),
                lambda: leases.acquire_share(engine, ["x"], uuid4()),
                lambda: parked.park(engine, [(1, alice, bob, "why")]),
                lambda: pause.pause_projection(engine, "me", "why"),
                lambda: view_register.register_generation(engine, 64, "why"),
                lambda: idempotency.delete_old_answers(engine, 1),
                lambda: log.head(engine),  # nor is what it holds: it may be behind
                lambda: check_server(engine),
            ):
                with refused:
                    await call()
            with refused:
                upgrade_database(database_url)
            with refused, connect_import(PostgresSettings(database_url, allow_async_commit=True)):
                pass
        receipt = await commits.send(Follow(alice, carol))
    assert (await everything(engine))[-1].position == receipt.position
    lines = [record.message for record in caplog.records if record.name == "commands.group_commit"]
    assert len(lines) == 2 and "takes no writes" in lines[0] and "available again" in lines[1]
    assert "a standby, or set to be read-only" in lines[0]


async def test_tool_reads_from_read_only_server(database_url: str) -> None:
    """What only reads works on a standby, and a write is refused in the same words."""
    tool = create_engine(PostgresSettings(database_url, allow_async_commit=True), is_tool=True)
    await register(tool, "alice")
    with read_only(database_url):
        assert (await log.head(tool)).position == 1
        with refused:
            await pause.pause_projection(tool, "me", "why")
    await tool.dispose()


async def test_session_that_has_become_read_only_is_not_lent_again(engine: Engine) -> None:
    """As after a change of the running server's settings: the server reports it with its next answer."""
    become = text("SELECT set_config('default_transaction_read_only', 'on', false), pg_backend_pid()")
    ((_, pid),) = await fetch(engine, become)
    assert (await fetch(engine, text("SELECT pg_backend_pid()")))[0][0] != pid


async def test_refused_write_empties_the_pool(engine: Engine) -> None:
    """Behind a pooler nothing is reported; a write that is refused shows that the address leads to a standby now."""
    async with engine.connect() as one, engine.connect() as two:
        old = {(await connection.execute(PID)).scalar_one() for connection in (one, two)}
    with refused:
        await fetch(engine, raising("25006"))
    async with engine.connect() as one, engine.connect() as two:
        new = {(await connection.execute(PID)).scalar_one() for connection in (one, two)}
    assert len(old | new) == 4


PID = text("SELECT pg_backend_pid()")


def raising(state: str) -> TextClause:
    """Return a statement that fails with this SQLSTATE."""
    return text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$")


UNAVAILABLE = [
    *("08006", "25006", "25P03", "25P04", "40001", "40P01", "42501", "53100", "53200", "53300", "53400"),
    *("55P03", "57014", "57P01", "57P02", "57P03", "57P05", "58030"),
]


@pytest.mark.parametrize("state", UNAVAILABLE)
async def test_server_that_cannot_do_it_now_is_unavailable(
    engine: Engine, sql: psycopg.Connection[Any], state: str
) -> None:
    with pytest.raises(LogUnavailable):
        await fetch(engine, raising(state))
    with pytest.raises(LogUnavailable), translated_errors():
        sql.execute(raising(state).text.encode())


@pytest.mark.parametrize("state", ["22P02", "23505", "42P01", "54000", "P0001", "XX000"])
async def test_statement_that_is_wrong_is_not_an_outage(
    engine: Engine, sql: psycopg.Connection[Any], state: str
) -> None:
    """It would be wrong again; a batch with such a command must be split, not refused as a whole."""
    with pytest.raises(DBAPIError):
        await fetch(engine, raising(state))
    with pytest.raises(psycopg.Error), translated_errors():
        sql.execute(raising(state).text.encode())


async def test_standby_behind_all_positions_does_not_say_which_of_them_the_log_has(
    engine: Engine, database_url: str, sql: psycopg.Connection[Any]
) -> None:
    """Its head is before all of them, and says nothing about the log's."""
    sql.execute("CREATE SCHEMA standby")
    sql.execute("CREATE FUNCTION standby.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    url = f"{database_url}{'&' if '?' in database_url else '?'}options=-csearch_path%3Dstandby,public,pg_catalog"
    tool = create_engine(PostgresSettings(url), is_tool=True)
    beyond = (await log.head(engine)).position + 1
    try:
        assert await log.words_at(engine, [beyond]) == {}
        with pytest.raises(LogUnavailable):
            await log.words_at(tool, [beyond])
    finally:
        await tool.dispose()
        sql.execute("DROP SCHEMA standby CASCADE")
