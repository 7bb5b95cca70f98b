"""The testbed: embedded servers as of `follows up`, and the processes of the service and of its peers."""

import asyncio
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import psycopg
from redis import Redis

from bench.cpu import Meter
from bench.graph import SEED, Graph, generate_graph, read
from bench.settings import BenchSettings
from cli.dev.dev_key import DEV_ISSUER, ensure_dev_key, sign
from cli.dev.embedded import embedded
from cli.dev.processes import PROCESS_STOP_TIMEOUT_S
from cli.dev.supervisor import Program, start_program
from cli.service_status import StatusReader, ViewStatus
from commands.bulk_follows import IMPORT_BATCH, connect_import, import_follows
from commands.bulk_users import import_users
from commands.db.migrate import upgrade_database
from commands.db.postgres import PostgresSettings
from projections.client.client import RedisClientSettings, open_redis
from projections.metrics.folder import FOLDER_VARIABLE
from projections.signals.job_queue import QueueSettings

ROOT: Final = Path(__file__).resolve().parents[1]
READY_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 20.0
# As `follows web` serves; the peers are not part of it, and have another Python.
GRANIAN: Final = (
    "-m granian --interface asgi --loop uvloop --no-ws --http 1 --backlog 4096 --backpressure 16384 "
    "--respawn-failed-workers --workers-kill-timeout 15 --host 127.0.0.1"
)
PEERS: Final = ROOT / ".bench" / "venv" / "bin" / "python"


class Server:
    """A running web process and its port."""

    def __init__(self, name: str, port: int, child: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name, self.port, self.child, self.log = name, port, child, log
        self.url = f"http://127.0.0.1:{port}"


class Testbed:
    """Servers, processes and the graph. Each is started when a row first needs it, and runs until the end."""

    def __init__(self, folder: Path, settings: BenchSettings, stack: ExitStack) -> None:
        self.folder, self.settings, self._stack = folder, settings, stack
        # The settings of `follows up`, every commit flushed to disk as in production, and connections for the peers.
        running = stack.enter_context(embedded(folder / "data", postgres_settings={"max_connections": "300"}))
        assert running.database and running.views and running.queue
        self.database, self.views, self.queue = running.database, running.views, running.queue
        self.pids = {server.name: server.child.pid for server in running.servers}
        self._made: dict[str, Server] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._graph: Graph | None = None
        self._callers_left: list[int] | None = None
        # Follows made by rows: (follower's place, followed's place).
        self.made_follows: set[tuple[int, int]] = set()
        upgrade_database(self.database)
        jwks = ensure_dev_key(folder / "data")
        self.environment = {
            **os.environ,
            "DATABASE_URL": self.database,
            "REDIS_URL": self.views,
            "QUEUE_URL": self.queue,
            "FOLLOWS_DATA": str(folder / "data"),
            "FOLLOWS_JWKS": str(jwks),
            "FOLLOWS_ISSUER": DEV_ISSUER,
            "FOLLOWS_ENV": "development",
            "FOLLOWS_RATE_LIMIT": "0",
            "FOLLOWS_GRACE_S": "0",
            "FOLLOWS_LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
        }
        os.environ |= {name: self.environment[name] for name in ("DATABASE_URL", "REDIS_URL", "QUEUE_URL")}

    @property
    def graph(self) -> Graph:
        """The graph. It is imported into the log when it is first needed."""
        if self._graph is None:
            self._graph = read(self.settings.graph) if self.settings.graph else generate_graph()
            load(self.database, self._graph)
        return self._graph

    def fresh_callers(self, count: int) -> list[int]:
        """Return the places of users who follow at least one other, each user once in the life of the testbed."""
        if self._callers_left is None:
            followers = sorted(self.graph.following)
            self._callers_left = random.Random(SEED + 1).sample(followers, len(followers))
        chosen, self._callers_left = self._callers_left[:count], self._callers_left[count:]
        if len(chosen) < count:
            raise RuntimeError("all callers of the graph have written: run fewer rows at once")
        return chosen

    def service(self) -> Server:
        """Return the product: a web process, with metrics, and a worker on the graph, up to date with the log, without
        rate limits."""
        _ = self.graph
        self.worker()
        web = self.web("web", "api.app:app", ready="/health/reads", environment=self.metrics())
        wait_until(lambda: is_up_to_date(self), READY_TIMEOUT_S)
        return web

    def metrics(self) -> dict[str, str]:
        """Return the setting with which a web process keeps metrics, as below a parent that shows them."""
        folder = self.folder / "metrics"
        folder.mkdir(exist_ok=True)
        return {FOLDER_VARIABLE: str(folder)}

    def noop(self) -> Server:
        """Return the floor, served in the same way as the product."""
        return self.web("noop", "bench.noop:app", ready="/v1/users/x/follow-status")

    def web(
        self,
        name: str,
        app: str,
        *,
        ready: str,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        python: Path | None = None,
        flags: tuple[str, str] = ("", ""),
    ) -> Server:
        """Return a web process that runs ``app`` with ``python``.

        The first of ``flags`` in its command line is replaced by the second.
        """
        if name not in self._made:
            port = free_port()
            python_quoted = shlex.quote(str(python or sys.executable))
            command = f"{python_quoted} {GRANIAN.replace(*flags)} --port {port} --workers {workers} {app}"
            child, log = self.start(name, command, {**self.environment, **(environment or {})})
            self._made[name] = Server(name, port, child, log)
            wait_until(lambda: _answers(self._made[name], ready), READY_TIMEOUT_S)
        return self._made[name]

    def worker(self, name: str = "worker") -> None:
        """Start a worker process, with metrics."""
        if name not in self.pids:
            environment = {"FOLLOWS_METRICS": f"127.0.0.1:{free_port()}", **self.environment}
            self.start(name, f"{shlex.quote(sys.executable)} -m cli worker", environment)

    def start(self, name: str, command: str, environment: Mapping[str, str]) -> "tuple[subprocess.Popen[bytes], Path]":
        """Run a command until `stop` or the end; its CPU time is measured as ``name``."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            wanted = Program(
                name=name,
                command=["sh", "-c", f"exec {command}"],
                cwd=ROOT,
                environment=environment,
                stop_timeout_s=PROCESS_STOP_TIMEOUT_S,
            )
            child = start_program(wanted, output)
        self._stack.callback(_stop, child)
        self.pids[name] = child.pid
        self._children[name] = child
        return child, log

    def stop(self, name: str) -> None:
        """Stop a process."""
        _stop(self._children.pop(name))
        self._made.pop(name, None)
        del self.pids[name]

    def meter(self, *names: str) -> Meter:
        """Return a meter of the CPU seconds of the servers and the named processes from now on."""
        return Meter({name: pid for name, pid in self.pids.items() if name in {*names, "postgres", "valkey"}})

    def token(self, user: str, **claims: object) -> str:
        """Return a token signed with the development key, valid for hours."""
        return sign(self.folder / "data", user, scopes=("user_read", "user_follows_edit"), claims=claims)

    def server_settings(self) -> dict[str, str]:
        """Return the servers' versions and the settings that decide their durability and speed."""
        names = ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "shared_buffers")
        found = {f"postgres_{name}": str(self.query(f"SHOW {name}")[0][0]) for name in names}
        with self.redis() as client:
            config = client.config_get("append*")
            about = client.info("server")
            # Of Valkey, the second is the version of Redis that it stands in for.
            found["valkey_version"] = str(about.get("valkey_version", about["redis_version"]))
        return found | {"valkey_appendonly": config["appendonly"], "valkey_appendfsync": config["appendfsync"]}

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Return the rows of one statement on the log's server."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def redis(self) -> Redis:
        """Return a client of the views' server."""
        return Redis.from_url(self.views)


@contextmanager
def open_testbed(folder: Path, settings: BenchSettings) -> Iterator[Testbed]:
    """Run a testbed in ``folder`` until the block ends."""
    with ExitStack() as stack:
        yield Testbed(folder, settings, stack)


def load(database: str, graph: Graph) -> None:
    """Import the graph into the log with the product's bulk import."""
    with connect_import(PostgresSettings(database)) as connection:
        users, follows = list(graph.users()), list(graph.follows())
        for start in range(0, len(users), IMPORT_BATCH):
            import_users(connection, users[start : start + IMPORT_BATCH])
        for start in range(0, len(follows), IMPORT_BATCH):
            import_follows(connection, follows[start : start + IMPORT_BATCH])


def is_up_to_date(testbed: Testbed) -> bool:
    """Return True if the live view includes the whole log."""

    async def read_view() -> ViewStatus | None:
        redis = open_redis(RedisClientSettings(testbed.views))
        reader = StatusReader(PostgresSettings(testbed.database), redis, QueueSettings(testbed.queue))
        try:
            return (await reader.read()).view
        finally:
            await reader.close()
            await redis.close()

    view = asyncio.run(read_view())
    return view is not None and view.lag_events == 0


def wait_until(is_true: Callable[[], bool], timeout_s: float) -> None:
    """Wait until ``is_true()``. Raises TimeoutError."""
    end = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError(f"{is_true} did not come true in {timeout_s} s")
        time.sleep(0.05)


def free_port() -> int:
    """Return a TCP port of this machine that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(server: Server, path: str) -> bool:
    if server.child.poll() is not None:
        raise RuntimeError(f"{server.name} ended: {server.log.read_text()}")
    try:
        return httpx.get(server.url + path, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):  # children of it that are left
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
