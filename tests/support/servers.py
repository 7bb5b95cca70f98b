"""Real servers for the tests, one PostgreSQL and one Valkey per run, and the service as processes."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import SimpleQueue

import httpx
import msgspec
import psycopg
from honcho.environ import parse_procfile
from redis import Redis

from cli.dev.embedded import embedded
from cli.dev.processes import program
from cli.dev.supervisor import start_program
from tests.support.queues import LOG_ID

# Test data need not survive a crash.
TEST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_prepared_transactions": "10",  # the service uses none, but other programs on the same server may
    "shared_buffers": "64MB",
}
# The product refuses such servers without this.
NOT_DURABLE = {"FOLLOWS_ALLOW_ASYNC_COMMIT": "1"}
TEMPLATE = "follows_template"
VALKEY_DATABASES = 16
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Servers:
    """The run's two servers: URLs of an empty PostgreSQL database and of the Valkey without a database number.

    Databases for tests are created and dropped in the background, since either takes as long as a short test.
    """

    database: str
    valkey: str
    _background: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "databases"))
    _prepared: SimpleQueue[Future[str]] = field(default_factory=SimpleQueue)
    _dropped: list[Future[None]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def database_url(self, name: str) -> str:
        """Return the URL of the database ``name``."""
        return self.database.replace("/follows?", f"/{name}?")

    def valkey_url(self, number: int) -> str:
        """Empty one of Valkey's sixteen databases and return its URL."""
        url = f"{self.valkey}?db={number % VALKEY_DATABASES}"
        with Redis.from_url(url) as client:
            client.flushdb()
        return url

    def administer(self, statement: str) -> None:
        """Run one statement as superuser, outside any test's database."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(statement.encode())

    def prepare(self) -> None:
        """Migrate the template that test databases are copied from, and start the first copy."""
        self.administer(f"CREATE DATABASE {TEMPLATE}")
        _migrate(self.database_url(TEMPLATE))
        with psycopg.connect(self.database_url(TEMPLATE)) as connection:
            connection.execute("UPDATE log_identity SET log_id = %s", [LOG_ID])
        self._prepared.put(self._background.submit(self._create))

    def take_database(self) -> str:
        """Return the name of a migrated, empty database, and start the next copy."""
        taken = self._prepared.get()
        self._prepared.put(self._background.submit(self._create))
        return taken.result()

    def drop_database(self, name: str) -> None:
        """Drop a database in the background."""
        self._dropped.append(self._background.submit(self.administer, f"DROP DATABASE {name} WITH (FORCE)"))

    def finish(self) -> None:
        """Wait for the background work; raise the error of a drop that failed."""
        self._background.shutdown()
        for dropped in self._dropped:
            dropped.result()

    def _create(self) -> str:
        name = f"t{next(self._numbers)}"
        self.administer(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name


@contextmanager
def real_servers(folder: Path) -> Iterator[Servers]:
    """Yield both servers, with their data in ``folder`` and a migrated template for test databases."""
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
    """Yield the URL of a new migrated, empty database."""
    name = servers.take_database()
    try:
        yield servers.database_url(name)
    finally:
        servers.drop_database(name)


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Service:
    """A running service: web and worker processes, and a development key.

    ``own`` has the settings in which a process, by its name, differs from ``environment``. ``root`` is the checkout
    that the processes run, this one if it is None.
    """

    base_url: str
    folder: Path
    environment: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]]
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    root: Path | None = None

    def token(self, user: str, role: str = "user", scopes: Sequence[str] = (), **claims: object) -> str:
        """Return a token of ``user`` that is valid for a day, since parts of the proof take hours.

        It was issued some hours ago, since some of them set clocks back.
        """
        from cli.dev.dev_key import sign

        usual = {"iat": int(time.time()) - 10_000}
        return sign(self.folder, user, scopes=tuple(scopes), role=role, ttl_s=86_400, claims=usual | claims)

    def client(self, user: str, role: str = "user", scopes: Sequence[str] = ()) -> httpx.Client:
        """Return an HTTP client that sends a token of ``user``."""
        headers = {"Authorization": f"Bearer {self.token(user, role, scopes)}"}
        return httpx.Client(base_url=self.base_url, headers=headers, trust_env=False, timeout=30)

    def start(self, name: str) -> None:
        """Start a process of the service by its name, or another one of it, as ``worker-2``."""
        kind = name.partition("-")[0]
        with (self.folder / f"{name}.log").open("ab") as log:
            wanted = program(kind, {**self.environment, **self.own.get(name, {})}, name)
            if self.root is not None:
                wanted = msgspec.structs.replace(wanted, cwd=self.root, command=_command_of(self.root, kind))
            self.processes[name] = start_program(wanted, log)

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process and its children, and wait for it."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes.pop(name).wait()

    def stop(self, name: str) -> None:
        """Terminate a process, as a restart in production does, and wait for it."""
        child = self.processes.pop(name)
        child.terminate()
        child.wait(STOP_TIMEOUT_S)

    def wait_ready(self) -> None:
        """Return when reads and commands are answered; fail with the logs after READY_TIMEOUT_S."""
        end = time.monotonic() + READY_TIMEOUT_S
        while not self._is_ready():
            dead = [name for name, child in self.processes.items() if child.poll() is not None]
            if dead or time.monotonic() > end:
                raise AssertionError(f"the service is not ready; ended: {dead}\n{self.logs()}")
            with suppress(subprocess.TimeoutExpired):
                next(iter(self.processes.values())).wait(0.05)

    def logs(self) -> str:
        """Return the logs of all processes."""
        return "\n".join(f"--- {log.stem}\n{log.read_text()}" for log in sorted(self.folder.glob("*.log")))

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.base_url}/health/ready", trust_env=False, timeout=5)
            state = answer.json()
            if "reads" not in state:  # a version before that field was there
                return answer.status_code == 200
            return bool(state["ready"] and state["reads"] and state["writes"])
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
    own: Mapping[str, Mapping[str, str]] | None = None,
    root: Path | None = None,
) -> Iterator[Service]:
    """Yield the service on the given servers, ready; its logs are printed at the end, for a failing test.

    ``folder`` gets the key and the logs. ``processes`` are names as in ``Service.start``; ``own`` has
    what differs from ``environment`` for one of them.
    """
    from cli.dev.dev_key import ensure_dev_key

    port = str(free_port())
    given = {
        **NOT_DURABLE,
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
        "FOLLOWS_HEALTH_DETAILS": "1",
        "FOLLOWS_GRACE_S": "0",
    }
    settings = {**os.environ, **given, **(environment or {})}
    service = Service(f"http://127.0.0.1:{port}", folder, settings, {}, own or {}, root)
    with ExitStack() as stack:
        stack.callback(lambda: print(service.logs()))
        stack.callback(lambda: _stop(service.processes))
        for name in processes:
            service.start(name)
        service.wait_ready()
        yield service


def _command_of(root: Path, kind: str) -> list[str]:
    """Return the command of a process of another version. Its Procfile may begin it with ``python`` or ``follows``."""
    command = parse_procfile((root / "Procfile").read_text()).processes[kind]
    python = shlex.quote(sys.executable)
    first, instead = ("follows ", f"{python} -m cli ") if command.startswith("follows ") else ("python ", f"{python} ")
    return ["sh", "-c", "exec " + command.replace(first, instead, 1)]


def _stop(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for child in processes.values():
        child.terminate()
    for child in processes.values():
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _migrate(database_url: str) -> None:
    from commands.db.migrate import upgrade_database

    upgrade_database(database_url)
