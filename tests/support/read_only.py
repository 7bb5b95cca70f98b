"""A database that takes no writes for a while, as an old primary that has become a standby."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

# An administrator may still write, and end what others run.
_ADMINISTRATOR = "-c default_transaction_read_only=off"
_END = """SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_start <= %s"""

# Sessions that are just beginning: they have no database yet.
_BEGINNING = """SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND datname IS NULL AND backend_start <= %s"""


def end_sessions(url: str) -> None:
    """End all other sessions of the database that have begun before this call."""
    with psycopg.connect(url, autocommit=True, options=_ADMINISTRATOR) as sql:
        begun = sql.execute("SELECT clock_timestamp()").fetchone()
        # Twice at least: a session that is just beginning is listed a moment later.
        while sql.execute(_BEGINNING, begun).fetchall() or any(sql.execute(_END, begun).fetchall() for _ in range(2)):
            pass


def set_default(url: str, setting: str) -> None:
    """Run ALTER DATABASE with this clause, which counts for new sessions."""
    with psycopg.connect(url, autocommit=True, options=_ADMINISTRATOR) as sql:
        sql.execute(f'ALTER DATABASE "{sql.info.dbname}" {setting}'.encode())


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """End all sessions, and let new ones only read for the length of the block."""
    set_default(url, "SET default_transaction_read_only = on")
    try:
        end_sessions(url)
        yield
    finally:
        set_default(url, "RESET default_transaction_read_only")
