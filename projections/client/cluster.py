"""A Redis Cluster as one place to send to: which server holds which slot, and what to do when that changes.

Every server has one connection of its own (projections/client/connection.py), so the commands of a turn go to all
servers in parallel, one write each. redis-py's cluster client is not used: each time it learns the slots again it
closes all connections, also those of healthy servers, and fails other callers' requests with them.

A request is sent again only when the server has refused it (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) or has never seen it,
and at most for SLOT_WAIT_S. Reads of a partition whose master is gone fail until its replica is promoted; those of
other partitions go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final

from hiredis import pack_command
from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError, ResponseError

from commands.errors import ViewsUnavailable
from projections.client.address import Address, Host
from projections.client.checked import open_client
from projections.client.connection import REPLY_TIMEOUT_S, ConnectionLost, Listeners, Request, fail, no_caller
from projections.client.node import CONNECT_TIMEOUT_S, Node, NotSent
from projections.outages import Outage

logger: Final = logging.getLogger(__name__)

# How long a request is kept while its slot has no server; a failover takes many times that, a moved slot a tenth.
SLOT_WAIT_S: Final = 0.5
# The pause between two times that the slots are learned.
LEARN_PAUSE_S: Final = 0.05
# A server that does not reply to CLUSTER SLOTS in this time is skipped, and the next one is asked.
CLUSTER_SLOTS_TIMEOUT_S: Final = 0.5

_ASKING: Final = pack_command(("ASKING",))
# Where a command has its key, if not right behind its name.
_KEY_AT: Final = {"EVAL": 3, "EVALSHA": 3, "EVAL_RO": 3, "EVALSHA_RO": 3, "MEMORY": 2, "OBJECT": 2}
_ANY_SERVER: Final = frozenset({"PING", "PUBLISH", "TIME"})
_ONE_SERVER: Final = frozenset({"CONFIG", "DBSIZE", "FLUSHALL", "FLUSHDB", "INFO", "KEYS", "SCAN", "SCRIPT", "WAIT"})


def slot_of(command: Sequence[Any]) -> int:
    """Return the slot of a command's key, any slot for a command without; raises ValueError for a command about one
    server."""
    name = str(command[0]).upper()
    if name in _ANY_SERVER:
        return 0
    if name in _ONE_SERVER:
        raise ValueError(f"{name} is about one server of a cluster: ask each of masters()")
    key = command[_KEY_AT.get(name, 1)]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class Cluster:
    """The servers of a cluster, by the slots they hold."""

    def __init__(self, address: Address, on_connection: Callable[[], None]) -> None:
        """``address`` names some of the servers, which are asked for the others on first use. ``on_connection`` is as
        in Listeners, and also called when another server holds a slot: a promoted replica may lack the last writes."""
        self._on_connection = on_connection
        self._options = address.options
        self._seeds = address.hosts
        self._nodes: dict[Host, Node] = {}
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._without_server: list[Request] = []
        self._learning: asyncio.Task[None] | None = None
        self._learned_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        self._disconnects_of_former = 0
        self._outage = Outage(logger, "the slots of the cluster are known again")
        self._closed = False

    @property
    def disconnects(self) -> int:
        """Return how many connections have ended, of all servers together."""
        return self._disconnects_of_former + sum(node.disconnects for node in self._nodes.values())

    def send(self, requests: list[Request]) -> None:
        """Send each request to the server that holds its slot, one write for each server."""
        batches: dict[int, tuple[Node, list[Request]]] = {}
        for request in requests:
            owner = self._owners[request.slot]
            if owner is None:
                self._wait_for_server(request)
            else:
                batches.setdefault(id(owner), (owner, []))[1].append(request)
        for owner, batch in batches.values():
            owner.send(batch)

    async def masters(self) -> list[Redis]:
        """Return a plain client of each server that holds slots; raises ViewsUnavailable when a slot has no server."""
        await self._learn()
        if None in self._owners:
            raise ViewsUnavailable
        return [owner.client for owner in self.known()]

    def known(self) -> dict[Node, int]:
        """Return the servers that held slots when the slots were last learned, and a slot of each."""
        owners = [owner for owner in dict.fromkeys(self._owners) if owner is not None]
        return {owner: self._owners.index(owner) for owner in owners}

    async def nodes(self) -> list[Node]:
        """Return each server, replicas too; those that the address names when no other is known."""
        await self._learn()
        return [self._node(host) for host in self._nodes or self._seeds]

    async def close(self) -> None:
        """Wait a moment for the replies that are due, then close all connections."""
        self._closed = True
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        waiting, self._without_server = self._without_server, []
        for request in waiting:
            fail(request, NotSent())
        await asyncio.gather(*[node.close() for node in self._nodes.values()], *self._closing)

    def _on_failure(self, host: Host, request: Request, error: Exception) -> None:
        """Send a request on to the server of its slot, keep it until that is known, or fail it."""
        if request.future.done():
            return
        word, _, rest = str(error).partition(" ") if isinstance(error, ResponseError) else ("", "", "")
        if self._closed:
            fail(request, error)
        elif word == "ASK":
            self._redirected(rest, host)[1].send([Request(_ASKING, no_caller()), request])
        elif word == "MOVED" and not request.retry_until:
            slot, owner = self._redirected(rest, host)
            if self._owners[slot] not in (owner, None):
                self._on_connection()
            self._owners[slot] = owner
            request.retry_until = request.future.get_loop().time() + SLOT_WAIT_S
            owner.send([request])
            self._learn_soon()
        elif word in ("MOVED", "TRYAGAIN", "CLUSTERDOWN") or isinstance(error, NotSent):
            self._wait_for_server(request)
        else:
            if isinstance(error, ConnectionLost):
                self._learn_soon()
            fail(request, error)

    def _redirected(self, redirect: str, host: Host) -> tuple[int, Node]:
        """Read "3999 127.0.0.1:6381" as slot and server; a missing host is that of the server that replied."""
        slot, _, place = redirect.partition(" ")
        name, _, port = place.rpartition(":")
        return int(slot), self._node((name or host[0], int(port)))

    def _wait_for_server(self, request: Request) -> None:
        now = request.future.get_loop().time()
        request.retry_until = request.retry_until or now + SLOT_WAIT_S
        if self._closed or now > request.retry_until:
            fail(request, NotSent())
        else:
            self._without_server.append(request)
            self._learn_soon()

    def _learn_soon(self) -> None:
        if self._learning is None and not self._closed:  # in an empty context, since all requests share it
            self._learning = asyncio.get_running_loop().create_task(self._learn_and_send(), context=Context())

    async def _learn_and_send(self) -> None:
        """Learn the slots again, LEARN_PAUSE_S after the last time, and send the requests that wait for that."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._learned_at + LEARN_PAUSE_S - loop.time())
            await self._learn()
        except Exception:
            logger.exception("the slots of the cluster could not be learned")
        finally:
            self._learned_at = loop.time()
            self._learning = None
        waiting, self._without_server = self._without_server, []
        self.send(waiting)

    async def _learn(self) -> None:
        """Ask one server after the other which server holds which slots until one replies; else nothing changes."""
        problem: Exception | None = None
        for host in self._candidates():
            client: Redis = self._node(host).client
            try:
                async with asyncio.timeout(CLUSTER_SLOTS_TIMEOUT_S):
                    answer = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                problem = error
            else:
                if answer:
                    self._take_over(host, answer)
                    self._outage.end()
                    return
        problem = problem or RedisError("none are assigned")
        self._outage.begin(problem, "no server of the cluster says which slots it holds: %s", problem)

    def _candidates(self) -> list[Host]:
        """Return all known servers, reachable ones first, else in random order: one of them may be outdated."""
        known = list(dict.fromkeys([*self._nodes, *self._seeds]))
        random.shuffle(known)
        return sorted(known, key=lambda host: host in self._nodes and self._nodes[host].down)

    def _take_over(self, asked: Host, answer: list[Any]) -> None:
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        present: set[Host] = set()
        for first, last, *nodes in answer:
            hosts = list(_hosts(nodes, asked))
            owners[first : last + 1] = [self._node(hosts[0])] * (last + 1 - first)
            present.update(hosts)
        former, masters = set(self._owners), set(owners)
        if any(before not in (now, None) for before, now in zip(self._owners, owners, strict=True)):
            self._on_connection()
        self._owners = owners
        for host in present | self._nodes.keys():
            node = self._node(host)
            if host not in present:
                del self._nodes[host]
                self._disconnects_of_former += node.connections
                self._close_node(node)
            elif node in former - masters:  # a former master: the requests on it are to be sent elsewhere
                self._close_node(node)

    def _close_node(self, node: Node) -> None:
        task = asyncio.get_running_loop().create_task(node.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _node(self, host: Host) -> Node:
        if host not in self._nodes:
            limits = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": REPLY_TIMEOUT_S}
            client = open_client(Redis, {"host": host[0], "port": host[1], **limits, **self._options})
            listeners = Listeners(partial(self._on_failure, host), self._learn_soon, self._on_connection)
            self._nodes[host] = Node(client, listeners)
        return self._nodes[host]


def _hosts(nodes: list[list[Any]], asked: Host) -> Iterator[Host]:
    """Return where a range's master and replicas are; a server without a name for itself is where it was asked."""
    for name, port, *_ in nodes:
        known = (name or b"").decode()
        yield (known if known not in ("", "?") else asked[0], int(port))
