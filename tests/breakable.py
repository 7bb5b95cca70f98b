"""Servers that a test may kill, freeze and start again, without harm to those of the other tests."""

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

from cli.embedded import embedded
from cli.restarts import Restarts
from cli.server_process import ServerProcess
from commands.migrate import upgrade
from tests.servers import TEST_SETTINGS

LIMIT_S = 30.0
# Long enough that waiting leaves the cores to those who are waited for.
LOOK_AGAIN_S = 0.01


@dataclass
class Breakable:
    """One server; ``ready`` says whether it answers."""

    url: str
    server: ServerProcess
    kill_signal: signal.Signals
    ready: Callable[[], bool]

    def kill(self) -> None:
        """End it without a chance to say good-bye."""
        self.server.child.send_signal(self.kill_signal)
        self.server.child.wait()

    def start(self) -> None:
        """Start it again on its data; returns when it answers."""
        self.server.restarts = Restarts()  # a test is nobody who restarts too often
        assert self.server.revive()
        wait_until(self.ready)

    def restart(self) -> None:
        """Kill and start."""
        self.kill()
        self.start()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Killed for the length of a block."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped with all its processes for the length of a block: connections stay open, and nothing answers."""
        parent = self.server.child.pid
        stopped = [parent]
        try:
            os.kill(parent, signal.SIGSTOP)  # first, so that there are no new ones
            stopped += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
            _tell(stopped, signal.SIGSTOP)
            yield
        finally:
            _tell(stopped, signal.SIGCONT)


@dataclass(frozen=True)
class BreakableServers:
    """A PostgreSQL with a migrated database and a Valkey; ``queue_url`` is another database of the latter."""

    postgres: Breakable
    valkey: Breakable
    queue_url: str

    def whole(self) -> None:
        """Return when both answer."""
        wait_until(self.postgres.ready)
        wait_until(self.valkey.ready)


@contextmanager
def breakable_servers(folder: Path) -> Iterator[BreakableServers]:
    """Both servers with their data in ``folder``."""
    with embedded(folder, postgres_settings=TEST_SETTINGS) as running:
        assert running.database and running.views and running.queue
        database, views = running.database, running.views
        upgrade(database)
        named = {server.name: server for server in running.servers}
        # PostgreSQL calls SIGQUIT an immediate shutdown: it is the crash that leaves no orphans behind.
        postgres = Breakable(database, named["postgres"], signal.SIGQUIT, lambda: _answers_sql(database))
        valkey = Breakable(views, named["valkey"], signal.SIGKILL, lambda: _answers_ping(views))
        yield BreakableServers(postgres, valkey, running.queue)


def _tell(processes: Iterable[int], what: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it was about to end
            os.kill(process, what)


def wait_until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Return as soon as it is so; fails when it is not within ``limit_s``."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"still not so after {limit_s} s"
        time.sleep(LOOK_AGAIN_S)


def _answers_sql(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _answers_ping(url: str) -> bool:
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisError:
        return False
