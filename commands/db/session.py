"""A session on Postgres: the settings that the code relies on, and what must hold before a connection is used.

Settings are set after the connect, in one statement: a database, a role, a login trigger and the environment (PG*) may
each change what a session begins with, and startup options lose to some of them.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import psycopg
from psycopg.abc import PQGen
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.pq.abc import PGconn
from psycopg.waiting import wait_async

from commands.db.address import hosts_of
from commands.db.pooling import (
    REFUSED,
    REPORTED,
    AsyncTransactionCursor,
    TransactionCursor,
    local_settings,
    shares_sessions,
)

_T = TypeVar("_T")

# Name -> value. A name that this server does not know is left out.
RELIED_ON: Final = {
    "client_encoding": "UTF8",  # names and profiles are any text
    "datestyle": "ISO, YMD",  # psycopg reads times in no other form
    "intervalstyle": "postgres",  # the same for intervals
    "timezone": "UTC",  # what tools print and exports hold
    "standard_conforming_strings": "on",  # the SQL here is written for it
    "array_nulls": "on",  # NULL in an array's text form is not a text
    "default_transaction_isolation": "read committed",  # a higher one makes appends fail that only have to wait
    "default_transaction_deferrable": "off",
    "idle_in_transaction_session_timeout": "0",  # an export is as slow as its reader
    "transaction_timeout": "0",  # PostgreSQL 17; a rebuild's or export's transaction is long, statements have a limit
    "session_replication_role": "origin",  # another one switches off the trigger that keeps the log append-only
}
# As PostgreSQL counts its versions: 14.0.
OLDEST_POSTGRES: Final = 140_000
# Promise P1, unless the operator accepts that commits may be lost.
DURABLE: Final = {"synchronous_commit": "on"}

# Only a superuser may set some, so those are left alone where they are right. Limits in DATABASE_URL or PGOPTIONS stay.
_SET: Final = """SELECT count(pg_catalog.set_config(s.name, w.value, {is_local}))
FROM (VALUES {values}) AS w (name, value, is_limit) JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) = w.name
WHERE CASE WHEN w.is_limit THEN s.source <> 'client' ELSE s.context <> 'superuser' OR s.setting <> w.value END"""
_READ: Final = "SELECT pg_catalog.pg_backend_pid(), " + ", ".join(
    f"pg_catalog.current_setting('{name}')"
    for name in (
        *("server_version_num", "transaction_isolation", "server_encoding", "transaction_read_only"),
        *("fsync", "full_page_writes", "synchronous_commit"),
    )
)
# For each step of a session's set-up, where the engine has no limit. A server or a pooler that accepts connections and
# hangs shows as one that is away.
SET_UP_TIMEOUT_S: Final = 10.0
# The arguments of connects that have been found to lead to a session each.
_checked_arguments: Final = set[str]()

# Settings whose changes the server reports by itself, with its next answer.
_READ_ONLY_REPORTS: Final = (b"default_transaction_read_only", b"in_hot_standby")


class UnusableServer(psycopg.OperationalError):
    """The server was reached and must not hold the log; the text says why and what to do."""


class TakesNoWrites(ReadOnlySqlTransaction):
    """The server was reached and is a standby, or set to be read-only."""


class NotAnswered(psycopg.OperationalError):
    """The server did not answer a statement in time; it may have been executed."""


class SessionNeeds(msgspec.Struct, frozen=True):
    """What a session is for. ``limits`` are settings in milliseconds, 0 for none."""

    limits: Mapping[str, int]
    # Whether the server must keep each commit that it has answered.
    durable: bool = True
    writes: bool = True
    # Whether a pooler may give each transaction another session.
    transaction_pooling: bool = False

    @property
    def relied_on(self) -> dict[str, str]:
        """Return the settings that the session needs beside its limits: name -> value."""
        return RELIED_ON | (DURABLE if self.durable else {})

    def statement(self) -> str:
        """Return the SQL of two statements: one sets the session up, one returns the row for ``check``."""
        rows = [f"('{name}', '{value}', false)" for name, value in self.relied_on.items()]
        rows += [f"('{name}', '{value}', true)" for name, value in self.limits.items()]
        is_local = f"s.name NOT IN {REPORTED}" if self.transaction_pooling else "false"
        return f"{_SET.format(values=', '.join(rows), is_local=is_local)};\n{_READ}"

    def check(self, row: Sequence[Any] | None) -> tuple[int, str]:
        """Raise UnusableServer or TakesNoWrites unless the server fits the needs; return the process id of the session,
        and the isolation in which transactions begin by themselves."""
        assert row is not None
        process_id, version, isolation, encoding, read_only, *durability = row
        if int(version) < OLDEST_POSTGRES:
            major, oldest = int(version) // 10_000, OLDEST_POSTGRES // 10_000
            raise UnusableServer(f"it is PostgreSQL {major}: {oldest} or newer is needed")
        if encoding != "UTF8":
            raise UnusableServer(
                f"the database's encoding is {encoding}, which cannot hold every name: "
                f"create the database with ENCODING 'UTF8' (and TEMPLATE template0)"
            )
        if self.durable and "off" in durability:
            name = ("fsync", "full_page_writes", "synchronous_commit")[durability.index("off")]
            raise UnusableServer(
                f"{name} is off: an answered follow could be lost in a crash. "
                "Turn it on, or set FOLLOWS_ALLOW_ASYNC_COMMIT=1 to accept that"
            )
        if self.writes and read_only == "on":
            raise TakesNoWrites("the server takes no writes: it is a standby, or set to be read-only")
        return int(process_id), isolation

    def may_share_sessions(self, pgconn: PGconn, process_id: int, arguments: Mapping[str, Any]) -> bool:
        """Return whether a pooler is in between that must be asked how it gives out sessions.

        A pooler names itself at the connect, and not the process of the session. One that is asked once gives each
        client a session of its own.
        """
        return (
            not self.transaction_pooling
            and pgconn.backend_pid != process_id
            and repr(arguments) not in _checked_arguments
        )

    def local(self, pgconn: PGconn, isolation: str) -> dict[str, list[bytes]]:
        """Return the members of a class of cursors that sets up each transaction."""
        return {"settings": local_settings(self.relied_on, self.limits, pgconn.server_version, isolation)}


def refuse_shared_sessions(arguments: Mapping[str, Any]) -> None:
    """Raise UnusableServer when the server is behind transaction pooling; note that it is not. Raises psycopg.Error."""
    if shares_sessions(lambda: psycopg.connect(**arguments, autocommit=True)):
        raise UnusableServer(REFUSED)
    _checked_arguments.add(repr(arguments))


def connect(needs: SessionNeeds, *, autocommit: bool, **arguments: Any) -> psycopg.Connection[Any]:
    """Connect and set the session up. Raises psycopg.Error, also as ``SessionNeeds.check`` does."""
    connection = psycopg.connect(**arguments, autocommit=True)
    try:
        cursor = connection.execute(needs.statement().encode())
        cursor.nextset()
        process_id, isolation = needs.check(cursor.fetchone())
        if needs.may_share_sessions(connection.pgconn, process_id, arguments):
            refuse_shared_sessions(arguments)
        if needs.transaction_pooling:
            connection.prepare_threshold = None
            connection.cursor_factory = type("Cursor", (TransactionCursor,), needs.local(connection.pgconn, isolation))
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


class LogConnection(psycopg.AsyncConnection[Any]):
    """A connection that closes when Postgres does not answer within ``timeout_s``, if that is given.

    The statement that was not answered may have run. Until ``is_set_up``, a cancelled task ends at once: psycopg would
    ask the server to cancel the statement, and wait ten seconds for a server that hangs.
    """

    timeout_s: float | None = None
    is_set_up: bool = False
    must_write: bool = True
    # What the address names, as ``host:port``, sorted.
    hosts: Sequence[str] = ()

    async def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:  # noqa: ASYNC109
        limit_s = self.timeout_s if timeout is None else timeout
        try:
            if not self.is_set_up:
                return await wait_async(gen, self.pgconn.socket, interval, limit_s or SET_UP_TIMEOUT_S)
            return await super().wait(gen, interval, limit_s)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # the answer may still come: do not read it
            raise NotAnswered("the server did not answer in time") from error

    async def set_up(self, needs: SessionNeeds, arguments: Mapping[str, Any]) -> None:
        """Set the session up, on a connection in autocommit. Raises psycopg.Error, also as ``needs.check`` does."""
        cursor = await self.execute(needs.statement().encode())
        cursor.nextset()
        process_id, isolation = needs.check(await cursor.fetchone())
        if needs.may_share_sessions(self.pgconn, process_id, arguments):
            await asyncio.to_thread(refuse_shared_sessions, arguments)
        # What a pooler has reported is of the session that it opened first.
        self.must_write = needs.writes and not needs.transaction_pooling
        if needs.transaction_pooling:
            self.prepare_threshold = None
            self.cursor_factory = type("AsyncCursor", (AsyncTransactionCursor,), needs.local(self.pgconn, isolation))
        self.is_set_up = True

    def is_usable(self) -> bool:
        """Return False when the server has closed this idle connection, or has said that it takes no more writes.

        Nothing is sent, and nothing is waited for.
        """
        pgconn = self.pgconn
        if pgconn.status != ConnStatus.OK or (_has_input(pgconn.socket) and not _only_tls_input(pgconn)):
            return False
        return not self.must_write or b"on" not in map(pgconn.parameter_status, _READ_ONLY_REPORTS)


async def connect_async(needs: SessionNeeds, timeout_s: float | None, **arguments: Any) -> LogConnection:
    """Connect and set the session up. Raises psycopg.Error, also as ``SessionNeeds.check`` does."""
    connection = await LogConnection.connect(**arguments, autocommit=True)
    try:
        connection.timeout_s, connection.hosts = timeout_s, hosts_of(arguments, connection.pgconn)
        await connection.set_up(needs, arguments)
    except BaseException:
        await connection.close()
        raise
    return connection


def _has_input(socket: int) -> bool:
    """Return whether a read would not wait. On an idle connection that is the server's farewell, or the end."""
    poller = select.poll()
    poller.register(socket, select.POLLIN)
    return bool(poller.poll(0))


def _only_tls_input(pgconn: PGconn) -> bool:
    """Read what came in; return True if it was TLS's own, such as a session ticket."""
    if not pgconn.ssl_in_use:
        return False
    try:
        pgconn.consume_input()
    except psycopg.OperationalError:
        return False
    return not _has_input(pgconn.socket)
