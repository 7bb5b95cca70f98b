"""What is measured on: embedded servers with the settings of `follows up`, and processes as the Procfile has them."""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import psycopg
from redis import Redis

from bench.cpu import Meter
from bench.graph import Graph, made_up, read
from bench.pace import Pace
from cli.dev_key import DEV_ISSUER, ensure_dev_key, sign
from cli.embedded import embedded
from cli.procfile import child_environment, commands, launch
from cli.status import read_status
from commands.bulk import BATCH, bulk, import_follows
from commands.bulk_users import import_users
from commands.migrate import upgrade
from commands.postgres import PostgresSettings
from projections.store import StoreSettings
from projections.wakeup import QueueSettings

ROOT: Final = Path(__file__).resolve().parents[1]
READY_S: Final = 120.0
STOP_S: Final = 20.0
PEERS: Final = ROOT / ".bench" / "venv" / "bin" / "python"


class Server:
    """One running web process and its port."""

    def __init__(self, name: str, port: int, child: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name, self.port, self.child, self.log = name, port, child, log
        self.url = f"http://127.0.0.1:{port}"


class Stage:
    """Servers, processes and the graph; what a row asks for is started once and kept until the end."""

    def __init__(self, folder: Path, pace: Pace, stack: ExitStack) -> None:
        self.folder, self.pace, self._stack = folder, pace, stack
        # The settings of `follows up`, with every commit flushed to disk, as in production; but peers want connections.
        running = stack.enter_context(embedded(folder / "data", postgres_settings={"max_connections": "300"}))
        assert running.database and running.views and running.queue
        self.database, self.views, self.queue = running.database, running.views, running.queue
        self.pids = {server.name: server.child.pid for server in running.servers}
        self._made: dict[str, Server] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._graph: Graph | None = None
        # Follows that rows have made: (follower's place, followed's place).
        self.taken: set[tuple[int, int]] = set()
        upgrade(self.database)
        jwks = ensure_dev_key(folder / "data")
        self.environment = child_environment(
            {
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
            }
        )
        os.environ |= {name: self.environment[name] for name in ("DATABASE_URL", "REDIS_URL", "QUEUE_URL")}

    @property
    def graph(self) -> Graph:
        """The graph, in the log since somebody asked for it first."""
        if self._graph is None:
            self._graph = read(self.pace.graph) if self.pace.graph else made_up()
            load(self.database, self._graph)
        return self._graph

    def service(self) -> Server:
        """The product: one web process and one worker, on the graph, level with the log; no rate limits."""
        _ = self.graph
        self.worker()
        web = self.web("web", "api.app:app", ready="/health/ready")
        wait_until(lambda: is_level(self), READY_S)
        return web

    def noop(self) -> Server:
        """The floor, served exactly as the product is."""
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
        """A web process under the Procfile's command line, with another ``app`` or ``python`` in it if wanted.

        The first of ``flags`` in that line is replaced by the second.
        """
        if name not in self._made:
            port = free_port()
            command = commands()["web"].replace("api.app:app", f"--workers {workers} {app}")
            command = command.replace(*flags)
            if python is not None:
                command = command.replace("python ", f"{shlex.quote(str(python))} ", 1)
            given = {**self.environment, **(environment or {}), "FOLLOWS_HOST": "127.0.0.1", "FOLLOWS_PORT": str(port)}
            child, log = self.start(name, command, given)
            self._made[name] = Server(name, port, child, log)
            wait_until(lambda: _answers(self._made[name], ready), READY_S)
        return self._made[name]

    def worker(self, name: str = "worker") -> None:
        """A worker process as in the Procfile."""
        if name not in self.pids:
            self.start(name, commands()["worker"], self.environment)

    def start(self, name: str, command: str, environment: Mapping[str, str]) -> "tuple[subprocess.Popen[bytes], Path]":
        """Runs a command until the end of the stage, or `stop`; its CPU time counts under ``name``."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            child = launch(command, environment, output.fileno())
        self._stack.callback(_stop, child)
        self.pids[name] = child.pid
        self._children[name] = child
        return child, log

    def stop(self, name: str) -> None:
        """Ends a process that is not needed any more."""
        _stop(self._children.pop(name))
        self._made.pop(name, None)
        del self.pids[name]

    def meter(self, *names: str) -> Meter:
        """Counts the CPU seconds of the servers and of the named processes from now on."""
        return Meter({name: pid for name, pid in self.pids.items() if name in {*names, "postgres", "valkey"}})

    def token(self, user: str, **claims: object) -> str:
        """A token of the product's own development key, good for hours."""
        return sign(self.folder / "data", user, scopes=("user_read", "user_follows_edit"), claims=claims)

    def settings(self) -> dict[str, str]:
        """Versions of the servers and what decides how durable and how fast they are."""
        names = ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "shared_buffers")
        found = {f"postgres_{name}": str(self.ask(f"SHOW {name}")[0][0]) for name in names}
        with self.redis() as client:
            config = client.config_get("append*")
            found["valkey_version"] = str(client.info("server")["redis_version"])
        return found | {"valkey_appendonly": config["appendonly"], "valkey_appendfsync": config["appendfsync"]}

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """Rows of one statement on the log's server."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def redis(self) -> Redis:
        """A client of the views' server."""
        return Redis.from_url(self.views)


@contextmanager
def open_stage(folder: Path, pace: Pace) -> Iterator[Stage]:
    """A stage in ``folder`` until the block ends."""
    with ExitStack() as stack:
        yield Stage(folder, pace, stack)


def load(database: str, graph: Graph) -> None:
    """Brings the graph into the log by the product's bulk import."""
    with bulk(PostgresSettings(database)) as connection:
        users, follows = list(graph.users()), list(graph.follows())
        for start in range(0, len(users), BATCH):
            import_users(connection, users[start : start + BATCH])
        for start in range(0, len(follows), BATCH):
            import_follows(connection, follows[start : start + BATCH])


def is_level(stage: Stage) -> bool:
    """Whether the live views show the whole log."""
    settings = PostgresSettings(stage.database), StoreSettings(stage.views), QueueSettings(stage.queue)
    view = asyncio.run(read_status(*settings)).view
    return view is not None and view.lag_events == 0


def wait_until(is_true: Callable[[], bool], limit_s: float) -> None:
    """Looks until ``is_true()``; raises TimeoutError."""
    end = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError(f"{is_true} did not come true in {limit_s} s")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port of this machine that nobody listened on a moment ago."""
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
        child.wait(STOP_S)
    with suppress(ProcessLookupError):  # what is left of it and of its own children
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
