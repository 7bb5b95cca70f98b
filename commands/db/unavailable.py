"""Which errors of Postgres mean that it is not available, and the texts about them for callers and operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from commands.db.session import NotAnswered, TakesNoWrites, UnusableServer
from commands.errors import LogUnavailable, SettingsError

# SQLSTATEs that say nothing about the statement, and pass by themselves or when an operator has done something: the
# connection, the role and the database, conflicts, resources (disk, memory, connections), shutdown, the file system.
UNAVAILABLE_CLASSES: Final = frozenset({"08", "28", "3D", "40", "53", "57", "58", "F0"})
# A lock that was not free in time, the two timeouts of a transaction, a role that may not write (any more).
UNAVAILABLE_STATES: Final = frozenset({"55P03", "25P03", "25P04", "42501"})
READ_ONLY: Final = "25006"
# Raised here, so their texts may be logged.
OWN_ERRORS: Final = (UnusableServer, TakesNoWrites, NotAnswered)
# The server ended the session because it was idle, so the statement that met this was not executed.
IDLE_SESSION_ENDED: Final = "57P05"


def sqlstate(error: BaseException) -> str | None:
    """Return PostgreSQL's code of an error of psycopg or SQLAlchemy; None when the server has not sent one."""
    state: str | None = getattr(getattr(error, "orig", error), "sqlstate", None)
    return state


def _said(error: BaseException) -> str:
    """Return the server's words about an error. The driver's own name hosts and users, so they are not used."""
    cause = getattr(error, "orig", error)
    if isinstance(cause, OWN_ERRORS):
        return str(cause)
    if isinstance(cause, TimeoutError | PoolTimeout | psycopg.errors.ConnectionTimeout):
        return "no connection in time"
    if isinstance(cause, psycopg.Error):
        return cause.diag.message_primary or "the connection failed or ended"
    return type(cause).__name__


def words_of(error: LogUnavailable) -> str:
    """Return the reason for operators, in the words of Postgres or the driver. They may name hosts and users."""
    cause = getattr(error.__cause__, "orig", None) or error.__cause__ or error
    if isinstance(cause, TimeoutError):
        return "it does not answer in time"
    return next(iter(str(cause).splitlines()), "") or type(cause).__name__


def _unavailable(error: Exception) -> LogUnavailable | None:
    """Return the error for callers when Postgres is away, too busy or takes no writes; None for any other error."""
    state = sqlstate(error)
    if state == READ_ONLY:
        return LogUnavailable("the event log takes no writes now", _said(error))
    if state is not None:
        is_away = state in UNAVAILABLE_STATES or state[:2] in UNAVAILABLE_CLASSES
    else:
        is_away = not isinstance(error, DBAPIError | psycopg.Error) or isinstance(
            getattr(error, "orig", error), psycopg.OperationalError | psycopg.InterfaceError
        )
    if is_away or getattr(error, "connection_invalidated", False):
        return LogUnavailable(said=_said(error))
    return None


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise LogUnavailable for errors that mean "Postgres is away, too busy or takes no writes"; no other is changed.

    ``_unavailable`` is the only place that decides which those are.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error, PoolTimeout, OSError) as error:
        unavailable = _unavailable(error)
        if unavailable is None:
            raise
        raise unavailable from error


@contextmanager
def refused_in_words() -> Iterator[None]:
    """Raise SettingsError with the reason when LogUnavailable means that the server must not hold the log."""
    try:
        yield
    except LogUnavailable as error:
        reason = getattr(error.__cause__, "orig", error.__cause__)
        if isinstance(reason, UnusableServer):
            raise SettingsError(str(reason)) from error
        raise
