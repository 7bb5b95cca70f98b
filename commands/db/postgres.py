"""The connection to Postgres: settings, engine, running a statement, and the checks before a process may write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar, cast

import msgspec
import psycopg
from sqlalchemy import AdaptedConnection, Executable, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from commands.db.address import POSTGRES_CONNECT_TIMEOUT_S, connect_arguments
from commands.db.opening import Opener
from commands.db.session import LogConnection, NotAnswered, SessionNeeds, connect, connect_async
from commands.db.unavailable import IDLE_SESSION_ENDED, READ_ONLY, refused_in_words, sqlstate, translated_errors
from commands.settings import secret, switch_from_env

_T = TypeVar("_T")

# Long enough for a full queue of appends ahead of this one, short enough that a stuck writer shows as 503.
LOCK_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_MS: Final = 30_000
# A request gives up on a Postgres that hangs after this long. A Postgres that is only slow ends the statement earlier.
POSTGRES_TIMEOUT_S: Final = 10.0
# What is checked when a session begins is checked again after this, as the server may have another setting by then.
CONNECTION_AGE_MAX_S: Final = 300
# One for each committer and a few for the directory. More connections commit no faster.
POOL_SIZE: Final = 6

# The name for the other packages, which must not name SQLAlchemy.
Engine = AsyncEngine

# In the pool's notes on a connection: it has been lent before.
WAS_LENT: Final = "was_lent"


class PostgresSettings(msgspec.Struct, frozen=True):
    """Where the log is, whether this process accepts commits that are not on disk, and whether it connects through a
    pooler that assigns a session to each transaction."""

    database_url: str
    allow_async_commit: bool = False
    transaction_pooling: bool = False

    @classmethod
    def from_env(cls) -> PostgresSettings:
        """Read DATABASE_URL, FOLLOWS_ALLOW_ASYNC_COMMIT and FOLLOWS_TRANSACTION_POOLING; raises SettingsError when the
        first is missing."""
        switches = switch_from_env("FOLLOWS_ALLOW_ASYNC_COMMIT"), switch_from_env("FOLLOWS_TRANSACTION_POOLING")
        return cls(secret("DATABASE_URL"), *switches)


def create_engine(
    settings: PostgresSettings,
    *,
    timeout_s: float | None = None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    is_tool: bool = False,
    for_looks: bool = False,
) -> AsyncEngine:
    """Create the engine of a process. It commits each statement by itself, since each is a whole unit.

    With ``timeout_s``, meant for requests, no statement takes longer than that, even when Postgres hangs. A tool also
    connects to a server that takes no writes or may lose commits. An engine ``for_looks``, which are made again and
    again, goes on with a connect when a look gives up, for the next look.
    """
    limit_ms = STATEMENT_TIMEOUT_MS if timeout_s is None else round(800 * timeout_s)
    needs = SessionNeeds(
        limits={"lock_timeout": lock_timeout_ms, "statement_timeout": limit_ms},
        durable=not (is_tool or settings.allow_async_commit),
        writes=not is_tool,
        transaction_pooling=settings.transaction_pooling,
    )
    arguments = connect_arguments(settings.database_url)
    opener = Opener(partial(connect_async, needs, timeout_s, **arguments), CONNECTION_AGE_MAX_S)
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=opener if for_looks else opener.connect,
        use_native_hstore=False,  # there is none, and to look for its type costs a statement
        isolation_level="AUTOCOMMIT",
        pool_size=POOL_SIZE,
        max_overflow=2,
        pool_timeout=POSTGRES_CONNECT_TIMEOUT_S,
        pool_recycle=-1 if for_looks else CONNECTION_AGE_MAX_S,
        pool_reset_on_return=None,  # there is nothing to roll back, and on a lost connection it would fill the log
        hide_parameters=True,  # a failed statement is logged, and its parameters are personal data
    )
    event.listen(engine.sync_engine, "checkout", _replace_unusable)
    event.listen(engine.sync_engine, "handle_error", _leave_read_only_server)
    if for_looks:
        opener.listen(engine)
    return engine


def connect_once(settings: PostgresSettings, needs: SessionNeeds, *, autocommit: bool) -> psycopg.Connection[Any]:
    """Open a connection outside of any pool. Raises psycopg.Error, and SettingsError for a URL that cannot be read."""
    needs = msgspec.structs.replace(needs, transaction_pooling=settings.transaction_pooling)
    return connect(needs, autocommit=autocommit, **connect_arguments(settings.database_url))


def _replace_unusable(connection: AdaptedConnection, record: ConnectionPoolEntry, proxy: object) -> None:
    """Have the pool open a new connection instead of lending one that cannot be used any more.

    One that has just been opened is lent as it is: the pool would not open a third one, and fail with another error.
    """
    was_lent = record.info.get(WAS_LENT, False)
    record.info[WAS_LENT] = True
    if was_lent and not cast("LogConnection", connection.driver_connection).is_usable():
        raise DisconnectionError


def _leave_read_only_server(context: ExceptionContext) -> None:
    """Have the pool drop all its connections when the server refuses writes: another one may take them now."""
    if sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection of the pool. Raises LogUnavailable when Postgres is away or too busy, now or in the block."""
    with translated_errors():
        async with engine.connect() as connection:
            yield connection


@asynccontextmanager
async def connected_within(engine: AsyncEngine, timeout_s: float) -> AsyncIterator[AsyncConnection]:
    """Lend a connection as ``connected`` does; LogUnavailable also when opening one takes longer than ``timeout_s``.

    The timeout of an engine's statements does not hold for a connect.
    """
    with translated_errors():
        async with asyncio.timeout(timeout_s):
            connection = await engine.connect()
        try:
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def connected_after(
    engine: AsyncEngine, read: Callable[[AsyncConnection], Awaitable[_T]]
) -> AsyncIterator[tuple[AsyncConnection, _T]]:
    """Lend a connection on which ``read`` has run, and what it returned. Raises LogUnavailable as ``connected`` does.

    When the connection ends in the middle of ``read``, which changes nothing, it is run once more on another one.
    """
    with translated_errors():
        for is_last_try in (False, True):
            async with engine.connect() as connection:
                try:
                    result = await read(connection)
                except DBAPIError as error:
                    if is_last_try or not error.connection_invalidated or isinstance(error.orig, NotAnswered):
                        raise
                    continue
                yield connection, result
                return


@asynccontextmanager
async def transaction(engine: AsyncEngine, options: Executable) -> AsyncIterator[AsyncConnection]:
    """Lend a connection inside one transaction, as ``connected`` does; ``options`` is run first, to set its limits."""
    async with connected(engine) as autocommitting:
        connection = await autocommitting.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await connection.execute(options)
            yield connection


async def fetch(engine: Engine, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
    """Run one statement and return all its rows. Raises LogUnavailable."""

    async def rows(connection: AsyncConnection) -> Sequence[Any]:
        return (await connection.execute(statement, parameters)).all()

    return await _run(engine, rows)


async def execute(engine: Engine, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
    """Run one statement that returns no rows; return how many it changed. Raises LogUnavailable."""

    async def count(connection: AsyncConnection) -> int:
        return (await connection.execute(statement, parameters)).rowcount

    return await _run(engine, count)


async def _run(engine: Engine, one_statement: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
    """Run one statement on a connection of the pool, and on another one if the first had just been ended as idle."""
    with translated_errors():
        try:
            async with engine.connect() as connection:
                return await one_statement(connection)
        except DBAPIError as error:
            if sqlstate(error) != IDLE_SESSION_ENDED:
                raise
        async with engine.connect() as connection:
            return await one_statement(connection)


async def read_server(engine: AsyncEngine) -> tuple[str, str]:
    """Return the server's version in words, and the name of this session's role. Raises LogUnavailable."""
    [(version, role)] = await fetch(engine, text("SELECT current_setting('server_version'), current_user"))
    return version, role


async def check_server(engine: AsyncEngine) -> None:
    """Connect. Raises SettingsError for a server that must not hold the log, LogUnavailable when it is away."""
    with refused_in_words():
        async with connected(engine):
            pass
