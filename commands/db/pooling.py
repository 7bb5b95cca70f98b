"""Poolers that give each transaction another session, as PgBouncer does with pool_mode=transaction.

A session's settings, prepared statements and temporary tables do not last there. With FOLLOWS_TRANSACTION_POOLING=1
each transaction sets what it relies on by itself: in the same message as its statement, so that nothing waits for the
client between an append and its commit. Without it such a pooler is refused.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
from psycopg.abc import Params
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

# Each of two connections asks so often which session it has. Other clients of a busy pool may take sessions meanwhile.
ROUNDS: Final = 10
# Under transaction pooling an idle client holds no session, so one is free sooner than this.
SESSION_WAIT_S: Final = 1.0

REFUSED: Final = (
    "a pooler gives each transaction another session (transaction pooling): set FOLLOWS_TRANSACTION_POOLING=1 for all "
    "processes and tools, or use session pooling"
)


# psycopg reads times by what the server has reported last, which is when the transaction is over. So these are set for
# the session: poolers know them, as they are reported, and give each client its own.
REPORTED: Final = ("client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings")


def local_settings(
    relied_on: Mapping[str, str], limits: Mapping[str, int], server_version: int, isolation: str
) -> list[bytes]:
    """Return the statements that give these settings to the transaction that they begin.

    ``isolation`` is that of transactions as they begin by themselves; a transaction can change it before any query.
    """
    needed = [
        f"CASE WHEN pg_catalog.current_setting('{name}') <> '{value}' "
        f"THEN pg_catalog.set_config('{name}', '{value}', true) END"
        for name, value in relied_on.items()
        if name != "transaction_timeout" or server_version >= 170_000
    ]
    needed += [f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in limits.items()]
    first = [] if isolation == "read committed" else [b"SET transaction_isolation = 'read committed'"]
    return [*first, f"SELECT {', '.join(needed)}".encode()]


class TransactionCursor(psycopg.Cursor[Any]):
    """A cursor that sends the settings of its connection together with the first statement of each transaction."""

    settings: list[bytes]

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> TransactionCursor:
        connection = self.connection
        if connection.pgconn.transaction_status == TransactionStatus.IDLE:
            before = psycopg.Cursor(connection)
            if connection.autocommit:
                with connection.pipeline():
                    for statement in self.settings:
                        before.execute(statement)
                    super().execute(query, params, **options)
                return self
            for statement in self.settings:
                before.execute(statement)
        super().execute(query, params, **options)
        return self


class AsyncTransactionCursor(psycopg.AsyncCursor[Any]):
    """``TransactionCursor`` for asyncio."""

    settings: list[bytes]

    async def execute(self, query: Any, params: Params | None = None, **options: Any) -> AsyncTransactionCursor:
        connection = self.connection
        if connection.pgconn.transaction_status == TransactionStatus.IDLE:
            before = psycopg.AsyncCursor(connection)
            if connection.autocommit:
                async with connection.pipeline():
                    for statement in self.settings:
                        await before.execute(statement)
                    await super().execute(query, params, **options)
                return self
            for statement in self.settings:
                await before.execute(statement)
        await super().execute(query, params, **options)
        return self


def shares_sessions(connect: Callable[[], psycopg.Connection[Any]]) -> bool:
    """Return whether two connections that are open at once get the same session in turn. Raises psycopg.Error."""
    with connect() as one, connect() as other:
        mine, theirs = set[bytes](), set[bytes]()
        for _ in range(ROUNDS):
            for connection, seen in ((one, mine), (other, theirs)):
                session = _session(connection.pgconn)
                if session is None:  # no session is left: each client keeps its own
                    return False
                seen.add(session)
            if len(mine) > 1 or len(theirs) > 1 or mine & theirs:
                return True
    return False


def _session(pgconn: PGconn) -> bytes | None:
    """Return the process id of the session that a statement gets, None when there is none in time."""
    pgconn.send_query(b"SELECT pg_catalog.pg_backend_pid()")
    if not select.select([pgconn.socket], [], [], SESSION_WAIT_S)[0]:
        pgconn.finish()
        return None
    found = None
    while (result := pgconn.get_result()) is not None:
        found = result.get_value(0, 0)
    return found
