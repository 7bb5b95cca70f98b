"""Short ways to write users and events for a test, and to see who waits for the log's lock."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.erasure import end_some_follows
from commands.events import AnyEvent, Recorded
from commands.group_commit import Committer
from commands.log import event_log as log
from commands.log.event_log import Draft
from tests.support.registering import register_users

Connection = psycopg.Connection[Any]


async def register(engine: Engine, *ids: str) -> list[int]:
    """Register users with these ids and the same logins; return their numbers."""
    async with engine.connect() as connection:
        rows = await register_users(connection, [(id_, id_.lower(), id_, {}) for id_ in ids])
    return [rows[id_][0] for id_ in ids]


async def append(engine: Engine, subject: int, object_: int, *events: AnyEvent) -> list[Recorded]:
    """Append events to a pair, after those that it has; return them as recorded."""
    recorded: list[Recorded] = []
    async with engine.connect() as connection:
        state = (await log.pair_states(connection, [(subject, object_)]))[0]
        version = state.version
        for event in events:
            version += 1
            position, at = (await log.append(connection, [Draft(subject, object_, version, event)]))[0]
            recorded.append(Recorded(position, subject, object_, version, event, at))
    return recorded


async def erase(engine: Engine, id_: str) -> int:
    """Erase a user and end all follows; return the number."""
    people = Directory(engine)
    number = await people.number(id_)
    await people.erase(id_)
    await end_follows_of(engine, number)
    return number


async def end_follows_of(engine: Engine, number: int) -> None:
    """End all follows of an erased user."""
    while not (await end_some_follows(engine, number))[1]:
        pass


async def everything(engine: Engine) -> list[Recorded]:
    """Return the whole log."""
    return await log.read_after(engine, 0, log.READ_LIMIT_MAX)


@asynccontextmanager
async def committing(engine: Engine, seen: list[int] | None = None, **options: Any) -> AsyncIterator[Committer]:
    """Run a committer with these options; ``seen`` collects the positions that it reports."""
    committer = Committer(engine, (seen if seen is not None else []).append, **options)
    committer.start()
    yield committer
    await committer.close()


@contextmanager
def locked_log(database_url: str) -> Iterator[Connection]:
    """Hold the log's lock until the block ends, so that every writer waits."""
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(log_lock())")
        yield holder
        holder.rollback()


def waiting_writers(connection: Connection) -> int:
    """Count the writers that wait for this database's log lock."""
    row = connection.execute(
        """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    ).fetchone()
    assert row is not None
    return int(row[0])


def rows(connection: Connection, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    return connection.execute(query.encode(), parameters).fetchall()


def empty(connection: Connection) -> None:
    """Empty all tables of the log quickly, with its triggers disabled."""
    kept = ("follows_version", "log_identity")
    tables = rows(connection, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    names = ", ".join(name for (name,) in tables if name not in kept)
    connection.execute(
        f"""SET session_replication_role = replica; TRUNCATE {names} RESTART IDENTITY CASCADE;
        SET session_replication_role = origin; ALTER SEQUENCE events_position RESTART;
        INSERT INTO batches (last_position, word) VALUES (0, random_word())""".encode()
    )


def lose_tail(connection: Connection, position: int) -> None:
    """Remove what the log has after ``position``, as a failover to a standby that lacks it does."""
    connection.execute(
        f"""SET session_replication_role = replica;
        DELETE FROM events WHERE position > {position}; DELETE FROM batches WHERE last_position > {position};
        SELECT setval('events_position', greatest({position}, 1), {position} > 0);
        SET session_replication_role = origin""".encode()
    )
