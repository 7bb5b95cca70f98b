"""Wall clocks that a test steps: of PostgreSQL, Valkey, the web processes and the workers; monotonic clocks go on.

With Debian's faketime each process reads its clock through that library. Without it a Python process gets the clock of
``stepped_clock/sitecustomize.py``, and the functions of the database find one in a schema before PostgreSQL's own;
Valkey's clock is then not stepped. Python's ``time.sleep`` fails under faketime; the service does not call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from tests.proof.parts import Counts
from tests.support.breakable_servers import BreakableServers

FAKETIME: Final = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)
STEPPED_CLOCK: Final = Path(__file__).parent / "stepped_clock"
POSTGRES, VALKEY = "postgres", "valkey"
# Found before PostgreSQL's own functions by whatever does not name their schema.
STEPPED_FUNCTIONS: Final = """CREATE SCHEMA IF NOT EXISTS stepped;
    CREATE OR REPLACE FUNCTION stepped.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT pg_catalog.clock_timestamp() + make_interval(secs => {seconds})';
    CREATE OR REPLACE FUNCTION stepped.now() RETURNS timestamptz LANGUAGE sql STABLE
    AS 'SELECT pg_catalog.now() + make_interval(secs => {seconds})';
    ALTER DATABASE follows SET search_path = "$user", public, stepped, pg_catalog"""


class Clocks:
    """The clocks of one run. Each begins without a step."""

    def __init__(self, folder: Path, counts: Counts) -> None:
        self._folder = folder / "clocks"
        self._folder.mkdir()
        self._folder.chmod(0o755)  # PostgreSQL runs as another account
        self._library = next((library for library in FAKETIME if library.exists()), None)
        self._database_url = ""
        counts.add("clocks by faketime" if self._library else "clocks passed in by the test, without faketime")
        print("clocks:", self._library or "passed in by the test, since faketime is not installed", flush=True)

    @property
    def names(self) -> Sequence[str]:
        """Return whose clocks can be stepped."""
        servers = (POSTGRES, VALKEY) if self._library else (POSTGRES,)
        return (*servers, "web", "web-2", "worker", "worker-2")

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables with which a process reads its own clock, and set that clock right."""
        file = self._folder / name
        self._write(name, 0.0)
        if self._library:
            return {
                "LD_PRELOAD": str(self._library),
                "FAKETIME_TIMESTAMP_FILE": str(file),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        return {"PYTHONPATH": str(STEPPED_CLOCK), "STEPPED_CLOCK_FILE": str(file)}

    def attach(self, servers: BreakableServers) -> None:
        """Let both servers read clocks of this run; they are started again for that."""
        self._database_url = servers.postgres.url
        for name, server in ((POSTGRES, servers.postgres), (VALKEY, servers.valkey)):
            if self._library:
                program = server.server.program
                environment = {**program.environment, **self.environment(name)}
                server.server.program = msgspec.structs.replace(program, environment=environment)
                server.restart()

    def step(self, name: str, seconds: float) -> None:
        """Put a clock so many seconds before or behind the right time."""
        if name == POSTGRES and not self._library:
            with psycopg.connect(self._database_url, autocommit=True) as connection:
                connection.execute(STEPPED_FUNCTIONS.format(seconds=seconds).encode())
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = 'follows' AND pid <> pg_backend_pid()"
                )
        else:
            self._write(name, seconds)

    def _write(self, name: str, seconds: float) -> None:
        fresh = self._folder / f"{name}.new"
        fresh.write_text(f"{seconds:+.3f}\n")
        fresh.chmod(0o644)
        fresh.replace(self._folder / name)
