"""PostgreSQL's errors as a command prints them: with the reason, which the service keeps to itself."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from commands.db.unavailable import words_of
from commands.errors import LogUnavailable, SettingsError


@contextmanager
def plain_database_errors(advice: str = "") -> Iterator[None]:
    """Turn LogUnavailable into a SettingsError with PostgreSQL's own words and ``advice``."""
    try:
        yield
    except LogUnavailable as error:
        raise SettingsError(f"PostgreSQL cannot be used: {words_of(error)}{advice}") from error


def without_log_lines() -> None:
    """Keep the service's warnings off the terminal: the command itself reports what does not answer."""
    logging.getLogger().addHandler(logging.NullHandler())
