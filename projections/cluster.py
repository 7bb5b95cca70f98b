"""A Redis Cluster as one place to send to: which server holds which slot, and what to do when that changes.

Every server has one connection of its own (projections/wire.py), so the commands of a turn go to all servers in
parallel, one write each. redis-py's cluster client is not used: each time it learns the slots anew it closes all
connections, also those of servers that are well, and with them other people's requests.

A request is sent again only when the server has said that it did not obey (MOVED, ASK, TRYAGAIN, CLUSTERDOWN) or has
never seen it. All within HOLD_S: whoever asks for a lane whose master is gone gets StoreUnavailable until its replica
has been promoted, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final

from hiredis import pack_command
from redis.asyncio import ConnectionPool, Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError, ResponseError

from commands.errors import StoreUnavailable
from projections.addresses import Address, Host
from projections.server import CONNECT_S, NotSentError, Server
from projections.wire import TIMEOUT_S, Check, CutOffError, Request, Returned, nobody, refuse

logger: Final = logging.getLogger(__name__)

# How long a request is kept while its slot has no server; a failover takes many times that, a moved slot a tenth.
HOLD_S: Final = 0.5
# The slots are asked for at most this often, and a server that does not tell them in time is passed by.
PAUSE_S: Final = 0.05
TELL_S: Final = 0.5

_ASKING: Final = pack_command(("ASKING",))
# Where a command has its key, if not right behind its name.
_KEY_AT: Final = {"EVAL": 3, "EVALSHA": 3, "EVAL_RO": 3, "EVALSHA_RO": 3, "MEMORY": 2, "OBJECT": 2}
_ANYWHERE: Final = frozenset({"PING", "PUBLISH", "TIME"})
_WHOLE_SERVER: Final = frozenset({"CONFIG", "DBSIZE", "FLUSHALL", "FLUSHDB", "INFO", "KEYS", "SCAN", "SCRIPT", "WAIT"})


def slot_of(command: Sequence[Any]) -> int:
    """The slot of a command's key, any slot for a command without; raises ValueError for what concerns one server."""
    name = str(command[0]).upper()
    if name in _ANYWHERE:
        return 0
    if name in _WHOLE_SERVER:
        raise ValueError(f"{name} is about one server of a cluster: ask each of masters()")
    key = command[_KEY_AT.get(name, 1)]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class Cluster:
    """The servers of a cluster, by the slots they hold."""

    def __init__(self, address: Address, returned: Returned, check: Check | None = None) -> None:
        """``address`` names some of the servers; they are asked for the others on first use. ``returned`` is as for
        Server, of any of them, and called for a slot that another server has now: it may be a replica that took over
        and has not got all writes. ``check`` is as for Wire."""
        self._returned, self._check = returned, check
        self._options = address.options
        self._seeds = address.hosts
        self._servers: dict[Host, Server] = {}
        self._owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._held: list[Request] = []
        self._mending: asyncio.Task[None] | None = None
        self._mended_at = 0.0
        self._leaving: set[asyncio.Task[None]] = set()
        self._breaks_of_former = 0
        self._closed = False

    @property
    def breaks(self) -> int:
        """As of a Server, of all of them together."""
        return self._breaks_of_former + sum(server.breaks for server in self._servers.values())

    def send(self, requests: list[Request]) -> None:
        """Send each request to the server that holds its slot, one write for each server."""
        batches: dict[int, tuple[Server, list[Request]]] = {}
        for request in requests:
            owner = self._owners[request.slot]
            if owner is None:
                self._hold(request)
            else:
                batches.setdefault(id(owner), (owner, []))[1].append(request)
        for owner, batch in batches.values():
            owner.send(batch)

    async def masters(self) -> list[Redis]:
        """A plain client of each server that holds slots; raises StoreUnavailable when not all slots are held."""
        await self._learn()
        if None in self._owners:
            raise StoreUnavailable
        return [owner.client for owner in self.known()]

    def known(self) -> list[Server]:
        """The servers that held slots when somebody last looked."""
        return [owner for owner in dict.fromkeys(self._owners) if owner is not None]

    async def slots(self) -> list[int]:
        """One of each server that holds slots; raises like ``masters``."""
        await self.masters()
        return [self._owners.index(owner) for owner in dict.fromkeys(self._owners)]

    async def nodes(self) -> list[Redis]:
        """A plain client of each server, replicas too; of those that the address names when no other is known."""
        await self._learn()
        return [self._server(host).client for host in self._servers or self._seeds]

    async def close(self) -> None:
        """Close all connections once what is under way has been answered."""
        self._closed = True
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait([self._mending])
        held, self._held = self._held, []
        for request in held:
            refuse(request, NotSentError())
        await asyncio.gather(*[server.close() for server in self._servers.values()], *self._leaving)

    def _failed(self, host: Host, request: Request, error: Exception) -> None:
        """Send a request on to where its slot is, or hold it until that is known, or let its caller know."""
        if request.future.done():
            return
        word, _, told = str(error).partition(" ") if isinstance(error, ResponseError) else ("", "", "")
        if self._closed:
            refuse(request, error)
        elif word == "ASK":
            self._named(told, host)[1].send([Request(_ASKING, nobody()), request])
        elif word == "MOVED" and not request.held_until:
            slot, owner = self._named(told, host)
            if self._owners[slot] not in (owner, None):
                self._returned()
            self._owners[slot] = owner
            request.held_until = request.future.get_loop().time() + HOLD_S
            owner.send([request])
            self._mend_soon()
        elif word in ("MOVED", "TRYAGAIN", "CLUSTERDOWN") or isinstance(error, NotSentError):
            self._hold(request)
        else:
            if isinstance(error, CutOffError):
                self._mend_soon()
            refuse(request, error)

    def _named(self, told: str, host: Host) -> tuple[int, Server]:
        """Read "3999 127.0.0.1:6381", where the host may be missing: then it is the one that says so."""
        slot, _, place = told.partition(" ")
        name, _, port = place.rpartition(":")
        return int(slot), self._server((name or host[0], int(port)))

    def _hold(self, request: Request) -> None:
        now = request.future.get_loop().time()
        request.held_until = request.held_until or now + HOLD_S
        if self._closed or now > request.held_until:
            refuse(request, NotSentError())
        else:
            self._held.append(request)
            self._mend_soon()

    def _mend_soon(self) -> None:
        if self._mending is None and not self._closed:
            self._mending = asyncio.get_running_loop().create_task(self._mend(), context=Context())  # for all who wait

    async def _mend(self) -> None:
        """Learn the slots anew, not too often, and send what was held."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._mended_at + PAUSE_S - loop.time())
            await self._learn()
        except Exception:
            logger.exception("the cluster's slots could not be learned")
        finally:
            self._mended_at = loop.time()
            self._mending = None
        held, self._held = self._held, []
        self.send(held)

    async def _learn(self) -> None:
        """Ask one server after the other who holds which slots until one answers; else all stays as it was."""
        problem: Exception | None = None
        for host in self._candidates():
            client: Redis = self._server(host).client
            try:
                async with asyncio.timeout(TELL_S):
                    answer = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                problem = error
            else:
                if answer:
                    self._take_over(host, answer)
                    return
        logger.warning("no server tells the cluster's slots: %s", problem or "none are assigned")

    def _candidates(self) -> list[Host]:
        """All known servers in any order, so that no single one's outdated view is taken for ever."""
        known = list(dict.fromkeys([*self._servers, *self._seeds]))
        random.shuffle(known)
        return sorted(known, key=lambda host: host in self._servers and self._servers[host].down)

    def _take_over(self, asked: Host, answer: list[Any]) -> None:
        owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        present: set[Host] = set()
        for first, last, *nodes in answer:
            hosts = list(_hosts(nodes, asked))
            owners[first : last + 1] = [self._server(hosts[0])] * (last + 1 - first)
            present.update(hosts)
        former, masters = set(self._owners), set(owners)
        if any(before not in (now, None) for before, now in zip(self._owners, owners, strict=True)):
            self._returned()
        self._owners = owners
        for host in present | self._servers.keys():
            server = self._server(host)
            if host not in present:
                del self._servers[host]
                self._breaks_of_former += server.connections
                self._leave(server)
            elif server in former - masters:  # what waits for a master that is none any more waits in vain
                self._leave(server)

    def _leave(self, server: Server) -> None:
        task = asyncio.get_running_loop().create_task(server.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _server(self, host: Host) -> Server:
        if host not in self._servers:
            options = {"socket_connect_timeout": CONNECT_S, "socket_timeout": TIMEOUT_S, **self._options}
            pool = ConnectionPool(host=host[0], port=host[1], **options)
            self._servers[host] = Server(
                Redis.from_pool(pool),
                failed=partial(self._failed, host),
                silent=self._mend_soon,
                returned=self._returned,
                check=self._check,
            )
        return self._servers[host]


def _hosts(nodes: list[list[Any]], asked: Host) -> Iterator[Host]:
    """Where a range's master and replicas are; a server that knows no name for itself is where it was asked."""
    for name, port, *_ in nodes:
        known = (name or b"").decode()
        yield (known if known not in ("", "?") else asked[0], int(port))
