"""Short ways to write users and events for a test, and to see who waits for the log's lock."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg

from commands import directory, log
from commands.committer import Committer
from commands.erasure import end_some_follows
from commands.events import AnyEvent, Recorded
from commands.log import Draft
from commands.postgres import Engine

Connection = psycopg.Connection[Any]


async def register(engine: Engine, *ids: str) -> list[int]:
    """Users with these ids and the same logins; their numbers."""
    async with engine.connect() as connection:
        rows = await directory.register(connection, [(id_, id_.lower(), id_, {}) for id_ in ids])
    return [rows[id_][0] for id_ in ids]


async def append(engine: Engine, subject: int, object_: int, *events: AnyEvent) -> list[Recorded]:
    """Append events to one pair, one after the other, behind what it has; what was recorded."""
    recorded: list[Recorded] = []
    async with engine.connect() as connection:
        state = (await log.states_of(connection, [(subject, object_)]))[0]
        version = state.last.version if state.last else 0
        for event in events:
            version += 1
            position, at = (await log.append(connection, [Draft(subject, object_, version, event)]))[0]
            recorded.append(Recorded(position, subject, object_, version, event, at))
    return recorded


async def erase(engine: Engine, id_: str) -> int:
    """Erase a user and end his follows; his number."""
    people = directory.Directory(engine)
    number = await people.number(id_)
    await people.erase(id_)
    while not (await end_some_follows(engine, number))[1]:
        pass
    return number


async def everything(engine: Engine) -> list[Recorded]:
    """The whole log."""
    return await log.read_after(engine, 0, log.READ_LIMIT_MAX)


@asynccontextmanager
async def committing(engine: Engine, seen: list[int] | None = None, tasks: int = 2) -> AsyncIterator[Committer]:
    """A running committer; ``seen`` collects the positions it tells of."""
    committer = Committer(engine, (seen if seen is not None else []).append, tasks=tasks)
    committer.start()
    yield committer
    await committer.close()


@contextmanager
def locked_log(database_url: str) -> Iterator[Connection]:
    """Holds the log's lock until the block ends, so that every writer must wait."""
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(log_lock())")
        yield holder
        holder.rollback()


def waiting_writers(connection: Connection) -> int:
    """How many wait for the lock of this database's log."""
    row = connection.execute(
        """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    ).fetchone()
    assert row is not None
    return int(row[0])


def rows(connection: Connection, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """What a query by hand gives."""
    return connection.execute(query.encode(), parameters).fetchall()


def empty(connection: Connection) -> None:
    """Back to a log in which nothing has happened, as cheaply as can be; the triggers are passed by for that."""
    kept = ("alembic_version", "log_identity")
    tables = rows(connection, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    names = ", ".join(name for (name,) in tables if name not in kept)
    connection.execute(
        f"""SET session_replication_role = replica; TRUNCATE {names} RESTART IDENTITY CASCADE;
        SET session_replication_role = origin; ALTER SEQUENCE events_position RESTART""".encode()
    )
