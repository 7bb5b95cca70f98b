"""Which sessions a migration waits for, looked up by another session while it waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg

# Several looks within the time that a migration waits for a lock.
BLOCKERS_LOOK_S: Final = 0.2
STATEMENT_CHARACTERS_MAX: Final = 80

# The session that has waited or worked longest comes first: others may wait behind it.
_BLOCKERS: Final = """SELECT a.pid, a.application_name, coalesce(a.xact_start, a.state_change), a.state, a.query
    FROM unnest(pg_blocking_pids(%s)) AS b (pid) JOIN pg_stat_activity a USING (pid) ORDER BY 3 LIMIT 1"""


class Blocker(msgspec.Struct, frozen=True):
    """A session that holds a lock: since when it has been in its transaction, and its latest statement, shortened."""

    pid: int
    application_name: str
    since: datetime | None
    state: str | None
    statement: str

    def __str__(self) -> str:
        """Describe the session in one line."""
        name = self.application_name or "no application_name"
        if self.since is None:  # of another role: this one may not look into its sessions
            return f"session {self.pid} ({name}): {self.statement}"
        return f"session {self.pid} ({name}), {self.state} since {self.since:%Y-%m-%d %H:%M:%S} UTC: {self.statement}"


class Blockers:
    """What the latest look has found; None before any."""

    def __init__(self) -> None:
        self.found: Blocker | None = None
        self._stopped = threading.Event()

    def _look(self, connect: Callable[[], psycopg.Connection[Any]], pid: int) -> None:
        """Look again and again until stopped. An error ends it: the migration reports what is wrong with Postgres."""
        with suppress(psycopg.Error):
            if self._stopped.wait(BLOCKERS_LOOK_S):
                return
            with connect() as connection:
                while not self._stopped.wait(BLOCKERS_LOOK_S):
                    row = connection.execute(_BLOCKERS, [pid]).fetchone()
                    if row is not None:
                        pid_, name, since, state, statement = row
                        self.found = Blocker(pid_, name, since, state, _shortened(statement or ""))

    @contextmanager
    def watching(self, connect: Callable[[], psycopg.Connection[Any]], pid: int) -> Iterator[None]:
        """Look for sessions that ``pid`` waits for, in a thread and on a connection of its own, during the block."""
        thread = threading.Thread(target=self._look, args=(connect, pid), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()


def _shortened(statement: str) -> str:
    words = " ".join(statement.split())
    return words if len(words) <= STATEMENT_CHARACTERS_MAX else f"{words[:STATEMENT_CHARACTERS_MAX]}..."
