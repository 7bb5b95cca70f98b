"""Servers of its own that a test may kill, freeze and start again."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from cli.dev.embedded import embedded
from cli.dev.supervisor import SupervisedProcess
from commands.db.migrate import upgrade_database
from tests.support.servers import TEST_SETTINGS

WAIT_TIMEOUT_S = 30.0
# Long enough that polling leaves the processors to the processes that it waits for.
POLL_INTERVAL_S = 0.01


@dataclass
class Breakable:
    """One server; ``ready`` returns True if it answers."""

    url: str
    server: SupervisedProcess
    kill_signal: signal.Signals
    ready: Callable[[], bool]

    def kill(self) -> None:
        """Kill the server."""
        self.server.child.send_signal(self.kill_signal)
        self.server.child.wait()

    def start(self) -> None:
        """Start the server again on its data, and return when it answers."""
        self.server.start()
        wait_until(self.ready)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.kill()
        self.start()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Keep the server killed for the length of the block."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all processes of the server for the length of the block: connections stay open, nothing is answered."""
        parent = self.server.child.pid
        stopped = [parent]
        try:
            os.kill(parent, signal.SIGSTOP)  # first, so that it starts no more children
            stopped += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
            _signal_all(stopped, signal.SIGSTOP)
            yield
        finally:
            _signal_all(stopped, signal.SIGCONT)


@dataclass
class BreakableServers:
    """A PostgreSQL with a migrated database, and a Valkey; ``queue_url`` is another database of the Valkey.

    After a failover another server takes the place of the one before.
    """

    postgres: Breakable
    valkey: Breakable
    queue_url: str

    def wait_ready(self) -> None:
        """Return when both servers answer."""
        wait_until(self.postgres.ready)
        wait_until(self.valkey.ready)


@contextmanager
def breakable_servers(folder: Path) -> Iterator[BreakableServers]:
    """Yield both servers, with their data in ``folder``."""
    with embedded(folder, postgres_settings=TEST_SETTINGS) as running:
        assert running.database and running.views and running.queue
        database, views = running.database, running.views
        upgrade_database(database)
        named = {server.name: server for server in running.servers}
        # SIGQUIT is PostgreSQL's immediate shutdown: a crash that leaves no child processes.
        postgres = Breakable(database, named["postgres"], signal.SIGQUIT, lambda: answers_sql(database))
        valkey = Breakable(views, named["valkey"], signal.SIGKILL, lambda: answers_ping(views))
        yield BreakableServers(postgres, valkey, running.queue)


def _signal_all(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(process, number)


def wait_until(condition: Callable[[], bool], limit_s: float = WAIT_TIMEOUT_S) -> None:
    """Return as soon as the condition is true; fail if it is not after ``limit_s`` seconds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not true after {limit_s} s"
        time.sleep(POLL_INTERVAL_S)


def answers_sql(url: str) -> bool:
    """Return True if a PostgreSQL accepts connections."""
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def answers_ping(url: str) -> bool:
    """Return True if a Redis server answers."""
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisError:
        return False
