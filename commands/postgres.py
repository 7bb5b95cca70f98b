"""The connection to Postgres: settings, engine, and the checks before a process may write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec
import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from commands.errors import LogUnavailable, SettingsError

T = TypeVar("T")

# Long enough for a full queue of appends before us, short enough that a stuck writer shows as 503.
LOCK_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_MS: Final = 30_000
CONNECT_TIMEOUT_S: Final = 5
# Who is waited for gives up on a server that hangs after so long; one that is only slow has ended the statement before.
PATIENCE_S: Final = 10.0
# A host that has vanished without a word is noticed by the kernel: after 10 s of silence and three probes, or when what
# was sent has not come there for 15 s.
VANISHED: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
# One for each committer, a few for the directory, and none to spare: more connections commit no faster.
POOL_SIZE: Final = 6


# What the other packages call it, which do not name SQLAlchemy.
Engine = AsyncEngine


# The same from psycopg, where it is used directly.
_DRIVER_ERRORS: Final = (psycopg.OperationalError, psycopg.InterfaceError)


class PostgresSettings(msgspec.Struct, frozen=True):
    """Where the log is, and how much durability this process insists on."""

    database_url: str
    allow_async_commit: bool = False

    @classmethod
    def from_env(cls) -> PostgresSettings:
        """Read DATABASE_URL and FOLLOWS_ALLOW_ASYNC_COMMIT; raises SettingsError when the first is missing."""
        url = os.environ.get("DATABASE_URL", "")
        if not url:
            raise SettingsError("DATABASE_URL is not set")
        return cls(url, os.environ.get("FOLLOWS_ALLOW_ASYNC_COMMIT", "") == "1")


def driver_url(database_url: str) -> str:
    """Give the URL in SQLAlchemy's form, with the psycopg driver; ``postgres://`` and ``postgresql://`` both do."""
    try:
        url = make_url(database_url)
    except Exception as error:
        raise SettingsError("DATABASE_URL cannot be read as a URL") from error
    if url.get_backend_name() not in {"postgres", "postgresql"}:
        raise SettingsError(f"DATABASE_URL must begin with postgresql://, not {url.get_backend_name()}://")
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


class _Impatient(psycopg.AsyncConnection[Any]):
    """Leaves a server that does not answer within ``PATIENCE_S``; after that it is not known what was done."""

    async def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:  # noqa: ASYNC109
        try:
            return await super().wait(gen, interval, PATIENCE_S if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # no answer has come, and none is wanted now
                self.pgconn.finish()
            raise


def create_engine(settings: PostgresSettings, *, patient: bool = True) -> AsyncEngine:
    """Make the engine of this process: autocommit, because each statement of ours is a whole unit by itself.

    One that is not ``patient`` is for who has somebody waiting: no statement of its takes longer than ``PATIENCE_S``.
    """
    limit_ms = STATEMENT_TIMEOUT_MS if patient else round(800 * PATIENCE_S)
    url = driver_url(settings.database_url)
    connect_args: dict[str, Any] = {
        **{name: value for name, value in VANISHED.items() if name not in make_url(url).query},
        "options": f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={limit_ms}",
        "connect_timeout": CONNECT_TIMEOUT_S,
    }
    if not patient:
        connect_args["async_creator_fn"] = _Impatient.connect
    return create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=POOL_SIZE,
        max_overflow=2,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=False,
        pool_reset_on_return=None,  # there is nothing to roll back, and on a lost connection it would fill the log
        hide_parameters=True,  # a failed statement is logged; what people said of themselves must not be
        connect_args=connect_args,
    )


async def check_durability(engine: AsyncEngine, settings: PostgresSettings) -> None:
    """Refuse to start where a commit may be answered before it is on disk (promise P1)."""
    with translated_errors():
        async with engine.connect() as connection:
            row = (
                await connection.execute(text("SELECT current_setting('synchronous_commit'), current_setting('fsync')"))
            ).one()
    if row[0] in {"off"} and not settings.allow_async_commit:
        raise SettingsError(
            "synchronous_commit is off: an answered follow could be lost in a crash. "
            "Turn it on, or set FOLLOWS_ALLOW_ASYNC_COMMIT=1 to accept that"
        )


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what means "Postgres is not there or too busy" into LogUnavailable; let our own mistakes through."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout, *_DRIVER_ERRORS, OSError) as error:
        raise LogUnavailable from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise LogUnavailable from error
        raise
