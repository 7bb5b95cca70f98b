"""A master with a replica, and three sentinels that decide which of the two is master, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.valkey_cluster import Node, start_node, stop_nodes, wait_until

MASTER = "the-views"
SENTINELS, QUORUM = 3, 2
# Short, so that a failover is over in about two seconds.
DOWN_AFTER_MS = 500


@dataclass
class Watched:
    """The servers and their sentinels."""

    servers: list[Node]
    sentinels: list[Node]

    @property
    def url(self) -> str:
        """Return a REDIS_URL or QUEUE_URL that names the sentinels."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{node.port}' for node in self.sentinels)}/{MASTER}/0"

    def master(self) -> Node:
        """Return the server that the sentinels name as master."""
        port = int(self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])
        return next(node for node in self.servers if node.port == port)

    def heal(self) -> None:
        """Start what is down; return when the replica is up to date and the sentinels know all servers."""
        for node in (*self.servers, *self.sentinels):
            if node.process.poll() is not None:
                node.start()
        wait_until(self._is_whole)

    def fail_over(self) -> None:
        """Fail over; return when the two servers have changed roles."""
        old = self.master()
        self.sentinels[0].ask("SENTINEL", "FAILOVER", MASTER)
        wait_until(lambda: self.master() is not old)
        old.ask("REPLICAOF", "127.0.0.1", self.master().port)  # the sentinels take ten seconds for that

    def _is_whole(self) -> bool:
        if b"master" not in {node.ask("ROLE")[0] for node in self.servers}:
            return False
        for sentinel in self.sentinels:
            found = sentinel.ask("SENTINEL", "MASTER", MASTER)
            state = dict(zip(found[::2], found[1::2], strict=True))
            if state[b"num-slaves"] != b"1" or state[b"num-other-sentinels"] != b"%d" % (SENTINELS - 1):
                return False
        return bool(self.master().replication()["connected_slaves"] == 1)


@contextmanager
def watched_servers(folder: Path) -> Iterator[Watched]:
    """Run servers and sentinels with their data in ``folder``."""
    running = Watched([], [])
    try:
        first = start_node(folder / "first", {"repl-diskless-sync-delay": "0"})
        running.servers.append(first)
        running.servers.append(start_node(folder / "second", {"replicaof": f"127.0.0.1 {first.port}"}))
        wait_until(lambda: first.replication()["connected_slaves"] == 1)  # else they look again in ten seconds
        lines = [
            f"sentinel monitor {MASTER} 127.0.0.1 {first.port} {QUORUM}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 3000",
        ]
        for number in range(SENTINELS):
            running.sentinels.append(start_node(folder / f"sentinel{number}", {}, lines, "--sentinel"))
        running.heal()
        yield running
    finally:
        stop_nodes([*running.sentinels, *running.servers])
