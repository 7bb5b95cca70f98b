"""Real servers for the tests: one PostgreSQL and one Valkey a run, and the service as processes."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue

import httpx
import psycopg
from redis import Redis

from cli.embedded import embedded
from cli.procfile import child_environment, commands, launch

# Nothing a test writes has to outlive the machine. `synchronous_commit` stays on: the product refuses without
# it.
TEST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "10",  # the service uses none, but others in the same cluster may
    "shared_buffers": "64MB",
}
TEMPLATE = "follows_template"
VALKEY_DATABASES = 16
READY_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0


@dataclass(frozen=True)
class Servers:
    """The run's two servers; ``database`` is a URL of the empty database, ``valkey`` one without a number.

    Databases for tests are made and dropped while the tests go on: either takes as long as a short test.
    """

    database: str
    valkey: str
    _errands: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "databases"))
    _spare: SimpleQueue[Future[str]] = field(default_factory=SimpleQueue)
    _dropped: list[Future[None]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def database_url(self, name: str) -> str:
        """The URL of the database ``name``."""
        return self.database.replace("/follows?", f"/{name}?")

    def valkey_url(self, number: int) -> str:
        """The URL of one of Valkey's sixteen databases, emptied."""
        url = f"{self.valkey}?db={number % VALKEY_DATABASES}"
        with Redis.from_url(url) as client:
            client.flushdb()
        return url

    def administer(self, statement: str) -> None:
        """Runs one statement as superuser outside of any test's database."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(statement.encode())

    def prepare(self) -> None:
        """Migrate what the databases are copied from, and begin with the first."""
        self.administer(f"CREATE DATABASE {TEMPLATE}")
        _migrate(self.database_url(TEMPLATE))
        self._spare.put(self._errands.submit(self._create))

    def take_database(self) -> str:
        """The name of a migrated, empty database."""
        taken = self._spare.get()
        self._spare.put(self._errands.submit(self._create))
        return taken.result()

    def give_back(self, name: str) -> None:
        """Nobody needs this database any more."""
        self._dropped.append(self._errands.submit(self.administer, f"DROP DATABASE {name} WITH (FORCE)"))

    def finish(self) -> None:
        """Wait for what is under way; raises what has gone wrong with it."""
        self._errands.shutdown()
        for dropped in self._dropped:
            dropped.result()

    def _create(self) -> str:
        name = f"t{next(self._numbers)}"
        self.administer(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name


@contextmanager
def real_servers(folder: Path) -> Iterator[Servers]:
    """Both servers with their data in ``folder``, and a migrated database to copy for each test."""
    with embedded(folder, postgres_settings=TEST_SETTINGS) as urls:
        assert urls.database and urls.views
        servers = Servers(urls.database, urls.views.partition("?")[0])
        servers.prepare()
        try:
            yield servers
        finally:
            servers.finish()


@contextmanager
def fresh_database(servers: Servers) -> Iterator[str]:
    """A migrated, empty database of its own; its URL."""
    name = servers.take_database()
    try:
        yield servers.database_url(name)
    finally:
        servers.give_back(name)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Service:
    """A running service: web and worker as processes of their own, with a development key."""

    base_url: str
    folder: Path
    environment: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]]

    def token(self, user: str, role: str = "user", scopes: Sequence[str] = (), **claims: object) -> str:
        """A token of ``user`` that the service accepts for a day: some parts of the proof take hours."""
        from cli.dev_key import sign

        return sign(self.folder, user, scopes=tuple(scopes), role=role, ttl_s=86_400, claims=claims)

    def client(self, user: str, role: str = "user", scopes: Sequence[str] = ()) -> httpx.Client:
        """An HTTP client that acts as ``user`` through ``Authorization: Bearer``."""
        headers = {"Authorization": f"Bearer {self.token(user, role, scopes)}"}
        return httpx.Client(base_url=self.base_url, headers=headers, trust_env=False, timeout=30)

    def start(self, name: str) -> None:
        """Starts (again) ``web`` or ``worker`` or a second one, ``worker-2``."""
        command = commands()[name.partition("-")[0]]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = launch(command, self.environment, log.fileno())

    def kill(self, name: str) -> None:
        """kill -9 for a process and all its own: the crash a test wants to see survived."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes.pop(name).wait()

    def stop(self, name: str) -> None:
        """Asks a process to end, as a restart in production does."""
        child = self.processes.pop(name)
        child.terminate()
        child.wait(STOP_LIMIT_S)

    def wait_ready(self) -> None:
        """Returns when /health/ready says 200; fails with the logs when it does not in a minute."""
        end = time.monotonic() + READY_LIMIT_S
        while not self._is_ready():
            dead = [name for name, child in self.processes.items() if child.poll() is not None]
            if dead or time.monotonic() > end:
                raise AssertionError(f"the service is not ready; ended: {dead}\n{self.logs()}")
            with suppress(subprocess.TimeoutExpired):
                next(iter(self.processes.values())).wait(0.05)

    def logs(self) -> str:
        """What the processes said."""
        return "\n".join(f"--- {log.stem}\n{log.read_text()}" for log in sorted(self.folder.glob("*.log")))

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.base_url}/health/ready", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_service(
    database_url: str,
    redis_url: str,
    queue_url: str,
    folder: Path,
    *,
    processes: Sequence[str] = ("web", "worker"),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """Web and worker on the given servers, ready; logs are printed at the end (pytest shows them on failure).

    ``folder`` takes the key and the logs; ``processes`` may name several, as ``worker-2``.
    """
    from cli.dev_key import ensure_dev_key

    port = str(free_port())
    given = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "QUEUE_URL": queue_url,
        "FOLLOWS_DATA": str(folder),
        "FOLLOWS_HOST": "127.0.0.1",
        "FOLLOWS_PORT": port,
        "FOLLOWS_JWKS": str(ensure_dev_key(folder)),
        "FOLLOWS_ISSUER": "follows-dev",
        "FOLLOWS_ENV": "development",
        "FOLLOWS_RATE_LIMIT": "0",
        "FOLLOWS_GRACE_S": "0",
    }
    settings = child_environment({**os.environ, **given, **(environment or {})})
    service = Service(f"http://127.0.0.1:{port}", folder, settings, {})
    with ExitStack() as stack:
        stack.callback(lambda: print(service.logs()))
        stack.callback(lambda: _stop(service.processes))
        for name in processes:
            service.start(name)
        service.wait_ready()
        yield service


def _stop(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for child in processes.values():
        child.terminate()
    for child in processes.values():
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_LIMIT_S)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _migrate(database_url: str) -> None:
    from commands.migrate import upgrade

    upgrade(database_url)
