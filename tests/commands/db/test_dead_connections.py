"""Connections that the server has closed: what was not sent, or only read, is sent on another one."""

from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from commands.db.postgres import Engine, connected_after, execute, fetch
from commands.decide import Follow, Unfollow
from commands.directory import Directory
from commands.errors import LogUnavailable
from commands.log import event_log as log
from commands.users import BroadcastChanges, UserChanges
from tests.support.log_writes import committing, everything, register, rows
from tests.support.read_only import end_sessions, set_default
from tests.support.waiting import until

PID = text("SELECT pg_backend_pid()")


async def test_idle_sessions_that_were_ended_cost_no_answer(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str
) -> None:
    """As a firewall, `idle_session_timeout` or a restart ends them: first by the server's clock, then all at once."""
    set_default(database_url, "SET idle_session_timeout = '50ms'")
    alice, bob = await register(engine, "alice", "bob")
    people = Directory(engine)
    async with committing(engine) as commits:
        for _ in range(3):
            await commits.send(Follow(alice, bob))
            await people.put("alice", UserChanges(bio="x"))
            await until(lambda: not sessions(sql))
            await commits.send(Unfollow(alice, bob))
            await until(lambda: not sessions(sql))
            assert (await log.head(engine)).position
            await until(lambda: not sessions(sql))
            assert await log.read_after(engine, 0, 1)
            await until(lambda: not sessions(sql))
            await people.put_broadcast("alice", BroadcastChanges())
            await until(lambda: not sessions(sql))
    set_default(database_url, "RESET idle_session_timeout")


def sessions(sql: psycopg.Connection[Any]) -> list[tuple[int]]:
    """Return the other sessions of the database."""
    return rows(
        sql,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'",
    )


async def test_all_connections_of_the_pool_may_be_dead(engine: Engine, database_url: str) -> None:
    async with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        for connection in (one, two, three):
            await connection.execute(PID)
    end_sessions(database_url)
    async with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        for connection in (one, two, three):
            await connection.execute(PID)


async def test_read_before_a_group_commit_is_repeated_on_another_connection(engine: Engine, database_url: str) -> None:
    """The session ends after the pool has lent it; a second time in a row is an outage."""
    pids: list[int] = []

    async def read(connection: AsyncConnection) -> int:
        pids.append((await connection.execute(PID)).scalar_one())
        if len(pids) in ending:
            end_sessions(database_url)
        return int((await connection.execute(PID)).scalar_one())

    ending = {1}
    async with connected_after(engine, read) as (connection, found):
        assert (await connection.execute(PID)).scalar_one() == found == pids[1] != pids[0]
    ending = {3, 4}
    with pytest.raises(LogUnavailable):
        async with connected_after(engine, read):
            pass
    assert len(pids) == 4


async def test_write_that_was_sent_is_not_sent_again(engine: Engine, sql: psycopg.Connection[Any]) -> None:
    """Unless the server says that the session was ended because it was idle: then the statement was not executed."""
    sql.execute("CREATE SEQUENCE calls")
    sql.execute(
        """CREATE FUNCTION fail_once(state text) RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE this bigint := nextval('calls');
        BEGIN IF this % 2 = 1 THEN RAISE EXCEPTION USING ERRCODE = state; END IF; RETURN this; END $$"""
    )
    assert await fetch(engine, text("SELECT fail_once('57P05')")) == [(2,)]
    assert await execute(engine, text("SELECT fail_once('57P05')")) == 1
    with pytest.raises(LogUnavailable):
        await fetch(engine, text("SELECT fail_once('57P01')"))
    assert rows(sql, "SELECT last_value FROM calls") == [(5,)]


async def test_append_that_was_cut_off_is_done_at_most_once(engine: Engine, database_url: str) -> None:
    alice, bob = await register(engine, "alice", "bob")
    before = len(await everything(engine))
    with pytest.raises(LogUnavailable):
        await fetch(engine, text("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(10)"))
    async with committing(engine) as commits:
        end_sessions(database_url)
        await commits.send(Follow(alice, bob))
    assert len(await everything(engine)) == before + 1
