"""The connection to the Redis that holds the views: settings, checks, and one pipeline per turn of the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec
from hiredis import pack_command
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis

from commands.errors import SettingsError, StoreUnavailable
from projections.addresses import open_sentinels, parse_address
from projections.cluster import Cluster, slot_of
from projections.guard import COUNT, Guard
from projections.keys import EVICTIONS
from projections.server import CONNECT_S, Server
from projections.wire import TIMEOUT_S, Check, Request, Returned, translated

__all__ = ["Script", "Store", "StoreSettings", "check_store", "forgettable", "load_script", "open_store", "translated"]

logger: Final = logging.getLogger(__name__)


def forgettable(answer: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """An answer that may fail before somebody waits for it, or with nobody waiting, and nobody needs to hear of it."""
    answer.add_done_callback(_take_note)
    return answer


def _take_note(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


# What a turn's commands may come to before the turn is over; more than any turn of readers'.
FLUSH_BYTES: Final = 100_000


class StoreSettings(msgspec.Struct, frozen=True):
    """Where the views are: a URL that ``parse_address`` can read."""

    redis_url: str

    @classmethod
    def from_env(cls) -> StoreSettings:
        """Read REDIS_URL; raises SettingsError when it is missing."""
        url = os.environ.get("REDIS_URL", "")
        if not url:
            raise SettingsError("REDIS_URL is not set")
        return cls(url)


class Script(msgspec.Struct, frozen=True):
    """A Lua script, known to the server by its hash. ``reads`` when it changes nothing."""

    text: str
    sha: str
    reads: bool


def load_script(package: str, name: str, *, reads: bool) -> Script:
    """Read a script from the package's folder."""
    text = files(package).joinpath(name).read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), reads)


class Store:
    """Sends commands to Redis; those issued in the same turn of the event loop share one round trip per server.

    In a cluster a command goes to the server that has its first key, so all keys of a command are of one lane.
    """

    def __init__(self, target: Server | Cluster, guard: Guard | None = None) -> None:
        """``guard`` is the one of the target's connections, if they have one."""
        self._target, self._guard = target, guard
        if guard is not None:
            guard.ask = lambda: self._unguarded("GET", EVICTIONS)
        self.clustered = isinstance(target, Cluster)
        self._pending: list[Request] = []
        self._size = 0
        self._closed = False

    @property
    def client(self) -> Redis:
        """The plain client of the only server, for what is rare. A cluster has several: see ``masters``."""
        if isinstance(self._target, Cluster):
            raise ValueError("a cluster is no single server: ask each of masters()")
        return self._target.client

    async def masters(self) -> list[Redis]:
        """A plain client of each server that holds keys; raises StoreUnavailable while a part of them has none."""
        return [self.client] if isinstance(self._target, Server) else await self._target.masters()

    def known_masters(self) -> list[Redis]:
        """``masters`` as they were known last, those that are away among them, without asking anybody."""
        return [server.client for server in self._target.known()]

    async def nodes(self) -> list[Redis]:
        """A plain client of each server, replicas of a cluster too."""
        return [self.client] if isinstance(self._target, Server) else await self._target.nodes()

    async def connect(self) -> None:
        """Open the connections to the servers that hold keys, which are opened on first use else; raises like
        ``call``."""
        for slot in await self._target.slots():
            await self._unguarded("PING", slot=slot)
        if self._guard is not None:
            await asyncio.wait([self._guard.look()])

    async def scan(self, pattern: str, count: int) -> AsyncIterator[list[bytes]]:
        """Give the keys like ``pattern``, server by server, in steps that look at some ``count`` keys each and may give
        none; raises StoreUnavailable. A key may come twice."""
        for master in await self.masters():
            cursor = None
            while cursor != 0:
                try:
                    cursor, keys = await master.scan(cursor or 0, match=pattern, count=count)
                except (exceptions.RedisError, OSError) as error:
                    raise translated(error) from None
                yield keys

    @property
    def breaks(self) -> int:
        """How many connections have ended so far. What a server said before that may not be so any more: it may have
        come back without its last writes."""
        return self._target.breaks

    async def close(self) -> None:
        """Close the connections once what is under way has been answered."""
        self._flush()
        self._closed = True
        await self._target.close()

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send one command with the others of this turn; the future gives the raw answer (bytes, int, list, None).

        It raises StoreUnavailable when the server is not there or cannot serve, else redis' ResponseError.
        """
        loop = asyncio.get_running_loop()
        slot = slot_of(command) if self.clustered else 0
        return self._queue(loop, Request(pack_command(command), loop.create_future(), slot))

    def _unguarded(self, *command: Any, slot: int | None = None) -> asyncio.Future[Any]:
        """``call``, answered by servers that have dropped keys, too."""
        loop = asyncio.get_running_loop()
        slot = slot if slot is not None else slot_of(command) if self.clustered else 0
        return self._queue(loop, Request(pack_command(command), loop.create_future(), slot, unguarded=True))

    def batch(self, commands: Sequence[tuple[Any, ...]]) -> asyncio.Future[list[Any]]:
        """Send several commands with the others of this turn; the future gives their answers in order, or raises the
        first error among them, like ``call``. One future costs less than one for each."""
        if self.clustered:
            return asyncio.gather(*[self.call(*command) for command in commands])
        loop = asyncio.get_running_loop()
        packed = b"".join([pack_command(command) for command in commands])
        return self._queue(loop, Request(packed, loop.create_future(), left=len(commands)))

    def _queue(self, loop: asyncio.AbstractEventLoop, request: Request) -> asyncio.Future[Any]:
        if self._closed:
            request.future.set_exception(StoreUnavailable())
            return request.future
        if not self._pending:
            loop.call_soon(self._flush)
        self._pending.append(request)
        self._size += len(request.packed)
        if self._size > FLUSH_BYTES:  # let the server begin while we go on
            self._flush()
        return request.future

    async def run(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """Run a script with the others of this turn; raises like ``call``."""
        suffix = "_RO" if script.reads else ""
        try:
            return await self.call(f"EVALSHA{suffix}", script.sha, len(keys), *keys, *arguments)
        except exceptions.NoScriptError:
            return await self.call(f"EVAL{suffix}", script.text, len(keys), *keys, *arguments)

    def get_many(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        """Ask for the strings under ``keys``, which may be of any lanes, with the others of this turn; the future gives
        them in their order, or raises like ``call``."""
        if self.clustered:
            return asyncio.gather(*[self.call("GET", key) for key in keys])
        return self.call("MGET", *keys)

    def _flush(self) -> None:
        pending, self._pending, self._size = self._pending, [], 0
        if pending:
            self._target.send(pending)


def open_store(settings: StoreSettings, returned: Returned = lambda: None, *, guarded: bool = False) -> Store:
    """Make the store of this process; connects on first use. Raises SettingsError on a URL that cannot be read.

    ``returned`` is called when a server is there again after it was away or silent, before anybody gets its answer.
    ``guarded`` is for who answers clients: a server that has dropped keys of its own will is unavailable until its
    views have been built anew.
    """
    address = parse_address(settings.redis_url)
    limits = {"socket_connect_timeout": CONNECT_S, "socket_timeout": TIMEOUT_S}
    guard = Guard(returned) if guarded else None
    check = Check(COUNT, guard.holds) if guard is not None else None
    match address.kind:
        case "cluster":
            return Store(Cluster(address, returned, check), guard)
        case "sentinel":
            sentinel = open_sentinels(address, limits)
            master = sentinel.master_for(address.master)
            return Store(Server(master, sentinels=sentinel.sentinels, returned=returned, check=check), guard)
        case "server":
            client = Redis.from_pool(ConnectionPool(**limits | address.options))
            return Store(Server(client, returned=returned, check=check), guard)


async def check_store(store: Store) -> float:
    """Refuse servers that would drop parts of a view, warn of those that forget all in a restart; give for how long (s)
    the one that came last has been up.

    Raises SettingsError, or StoreUnavailable when not every slot has a server. Of a cluster's servers one may be down:
    that is what the others are for. From now on there are connections, so that the end of one is noticed.
    """
    for client in await store.nodes():
        try:
            info: dict[str, Any] = await client.info()
        except (exceptions.RedisError, OSError) as error:
            if not store.clustered:
                raise StoreUnavailable from error
            logger.warning("%s does not answer", _name(client))
        else:
            _check_one(_name(client), info, clustered=store.clustered)
    await store.connect()
    return min([await _up_s(client) for client in await store.nodes()])


async def _up_s(client: Redis) -> float:
    """0 for one that does not answer: another may have just taken over from it."""
    try:
        info: dict[str, Any] = await client.info("server")
    except (exceptions.RedisError, OSError):
        return 0.0
    return float(info["uptime_in_seconds"])


def _check_one(name: str, info: dict[str, Any], *, clustered: bool) -> None:
    if bool(info.get("cluster_enabled")) != clustered:
        raise SettingsError(f"{name} is {'no' if clustered else 'a'} part of a cluster: REDIS_URL must say so")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise SettingsError(f"{name} has maxmemory-policy {policy}: set it to noeviction")
    if not info.get("aof_enabled"):
        logger.warning("%s has no append-only file: after its restart the views must be rebuilt", name)


def _name(client: Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"the Redis at {options['host']}:{options['port']}" if "host" in options else "the Redis at REDIS_URL"
