"""The client of the Redis that holds the views: settings, start check, and one pipeline per turn of the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from hiredis import pack_command
from redis import exceptions
from redis.asyncio import Redis

from commands.errors import ViewsUnavailable
from commands.settings import secret
from projections.client.address import open_sentinels, parse_address
from projections.client.checked import checked, open_client
from projections.client.cluster import Cluster, slot_of
from projections.client.connection import REPLY_TIMEOUT_S, Listeners, Request, fail, translated
from projections.client.node import CONNECT_TIMEOUT_S, Node
from projections.keys import check_namespace

logger: Final = logging.getLogger(__name__)

# A turn's commands are sent before its end when they come to more than this; no turn of reads does.
FLUSH_BYTES: Final = 100_000
# Calls of a script share a command until their arguments come to more than this: readers wait for all of it.
SHARED_BYTES: Final = 25_000
# The only maxmemory-policy under which a full Redis drops no keys.
NOEVICTION: Final = "noeviction"


# Keys and arguments of one call of a script.
ScriptCall = tuple[Sequence[Any], Sequence[Any]]


def ignore_failure(reply: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Return ``reply``, which may now fail without a caller that waits for it and without a log line."""
    reply.add_done_callback(_retrieve)
    return reply


def _retrieve(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()


class RedisClientSettings(msgspec.Struct, frozen=True):
    """Where the views are: a URL that ``parse_address`` can read."""

    redis_url: str

    @classmethod
    def from_env(cls) -> RedisClientSettings:
        """Read REDIS_URL; raises SettingsError when it is missing, or FOLLOWS_NAMESPACE cannot be used."""
        check_namespace()
        return cls(secret("REDIS_URL"))


_EACH: Final = files("projections.client").joinpath("each.lua").read_text()
_PLACE: Final = "-- (the other script)"


class Script(msgspec.Struct, frozen=True):
    """A Lua script and the hash by which the server knows it. ``reads`` when it changes nothing."""

    text: str
    sha: str
    reads: bool

    @classmethod
    def of(cls, text: str, *, reads: bool) -> Script:
        """Return the script of this text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), reads)


def load_script(package: str, name: str, *, reads: bool) -> Script:
    """Read a script from the package's folder."""
    return Script.of(files(package).joinpath(name).read_text(), reads=reads)


@cache
def each_of(script: Script) -> Script:
    """Return the script that makes several calls of ``script``, which must not answer with false."""
    return Script.of(_EACH.replace(_PLACE, script.text), reads=script.reads)


def _groups(calls: Sequence[ScriptCall]) -> Iterator[list[ScriptCall]]:
    """Yield the calls in groups whose arguments come to SHARED_BYTES or so."""
    group, size = list[ScriptCall](), 0
    for call in calls:
        group.append(call)
        size += sum([len(argument) for argument in call[1] if isinstance(argument, bytes | str)])
        if size > SHARED_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _together(calls: Sequence[ScriptCall]) -> tuple[list[Any], list[Any]]:
    """Return keys and arguments of the calls as ``each_of`` takes them."""
    every_key, every_argument = list[Any](), list[Any]()
    for keys, arguments in calls:
        every_key += keys
        every_argument += (len(keys), len(arguments), *arguments)
    return every_key, every_argument


class RedisClient:
    """Sends commands to Redis; those issued in the same turn of the event loop share one round trip per server.

    In a cluster a command goes to the server that has its first key, so all keys of a command are of one partition.
    """

    def __init__(self, target: Node | Cluster) -> None:
        self._target = target
        self.clustered = isinstance(target, Cluster)
        self._pending: list[Request] = []
        self._size = 0
        self._closed = False
        # How often commands were sent, each time all of a turn.
        self.round_trips = 0

    @property
    def client(self) -> Redis:
        """The plain client of the only server, for rare commands. A cluster has several: see ``masters``."""
        if isinstance(self._target, Cluster):
            raise ValueError("a cluster is no single server: ask each of masters()")
        return self._target.client

    async def masters(self) -> list[Redis]:
        """Return a plain client of each server that holds keys; raises ViewsUnavailable when a slot has no server."""
        return [self.client] if isinstance(self._target, Node) else await self._target.masters()

    async def nodes(self) -> list[Node]:
        """Return each server, replicas of a cluster too."""
        return [self._target] if isinstance(self._target, Node) else await self._target.nodes()

    async def connect(self) -> None:
        """Open the connections to the masters, which are opened on first use else; raises like ``call``."""
        await self.masters()
        await asyncio.gather(*self.call_masters("PING").values())

    async def scan(self, pattern: str, count: int) -> AsyncIterator[list[bytes]]:
        """Return the keys like ``pattern``, server by server, in steps that look at some ``count`` keys each and may
        find none; raises ViewsUnavailable. A key may come twice."""
        for master in await self.masters():
            cursor = None
            while cursor != 0:
                try:
                    cursor, keys = await master.scan(cursor or 0, match=pattern, count=count)
                except (exceptions.RedisError, OSError) as error:
                    raise translated(error) from None
                yield keys

    @property
    def disconnects(self) -> int:
        """How many connections have ended. Knowledge from before the latest end may be outdated: the server may have
        come back without its last writes."""
        return self._target.disconnects

    async def close(self) -> None:
        """Wait a moment for the replies that are due, then close the connections."""
        self._flush()
        self._closed = True
        await self._target.close()

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send one command with the others of this turn; the future gets the raw reply (bytes, int, list, None).

        It raises ViewsUnavailable when the server is not there or cannot serve, else redis' ResponseError.
        """
        loop = asyncio.get_running_loop()
        slot = slot_of(command) if self.clustered else 0
        return self._queue(Request(pack_command(command), loop.create_future(), slot))

    def call_masters(self, *command: Any) -> dict[str, asyncio.Future[Any]]:
        """Send one command without a key to each master as last known; return name of the server -> future, as of
        ``call``. The command is one that a server also executes while it loads its file, or says that it loads."""
        loop, packed = asyncio.get_running_loop(), pack_command(command)
        return {
            node.name: self._queue(Request(packed, loop.create_future(), slot, while_loading=True))
            for node, slot in self._target.known().items()
        }

    def batch(self, commands: Sequence[tuple[Any, ...]]) -> asyncio.Future[list[Any]]:
        """Send several commands with the others of this turn; the future gets their replies in order, or raises the
        first error among them, like ``call``. One future costs less than one for each."""
        if self.clustered:
            return asyncio.gather(*[self.call(*command) for command in commands])
        return self.batch_packed(b"".join([pack_command(command) for command in commands]), len(commands))

    def batch_packed(self, packed: bytes, replies: int) -> asyncio.Future[list[Any]]:
        """Send several commands to the only server, in the form that is sent; ``replies`` is how many they are. As
        ``batch``."""
        assert not self.clustered, "a cluster needs each command by itself"
        return self._queue(Request(packed, asyncio.get_running_loop().create_future(), replies_due=replies))

    def _queue(self, request: Request) -> asyncio.Future[Any]:
        if self._closed:
            request.future.set_exception(ViewsUnavailable())
            return request.future
        if not self._pending:
            request.future.get_loop().call_soon(self._flush)
        self._pending.append(request)
        self._size += len(request.packed)
        if self._size > FLUSH_BYTES:  # the server begins while the turn goes on
            self._flush()
        return request.future

    async def run(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """Run a script with the others of this turn; raises like ``call``."""
        suffix = "_RO" if script.reads else ""
        try:
            return await self.call(f"EVALSHA{suffix}", script.sha, len(keys), *keys, *arguments)
        except exceptions.NoScriptError:
            return await self.call(f"EVAL{suffix}", script.text, len(keys), *keys, *arguments)

    async def run_each(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run a script for several partitions with the others of this turn; return the answers in order, with redis'
        ResponseError in place of that of a call that failed. Raises like ``call``.

        Without a cluster, calls share a command of at most ``SHARED_BYTES`` or so: a server runs it as one.
        """
        if self.clustered or len(calls) == 1:
            made = await asyncio.gather(
                *[self.run(script, keys, arguments) for keys, arguments in calls], return_exceptions=True
            )
        else:
            groups = [self.run(each_of(script), *_together(group)) for group in _groups(calls)]
            made = [answer for answers in await asyncio.gather(*groups) for answer in answers]
        for answer in made:
            if isinstance(answer, BaseException):
                error = translated(answer) if isinstance(answer, Exception) else answer
                if not isinstance(error, exceptions.ResponseError):
                    raise error
        return made

    def get_many(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        """Read the strings under ``keys``, which may be of any partitions, with the others of this turn; the future
        gets them in the order of ``keys``, or raises like ``call``."""
        if self.clustered:
            return asyncio.gather(*[self.call("GET", key) for key in keys])
        return self.call("MGET", *keys)

    def _flush(self) -> None:
        pending, self._pending, self._size = self._pending, [], 0
        if pending:
            self.round_trips += 1
            self._target.send(pending)


def open_redis(
    settings: RedisClientSettings,
    on_connection: Callable[[], None] = lambda: None,
    *,
    reply_timeout_s: int = REPLY_TIMEOUT_S,
) -> RedisClient:
    """Return the client of REDIS_URL, which connects on first use. Raises SettingsError on a URL that cannot be read.

    ``on_connection`` is called when a server may have lost writes: on each new connection, also the first, and after it
    was silent, before any of its replies is given out. ``reply_timeout_s`` is for a single server.
    """
    address = parse_address(settings.redis_url)
    limits = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": REPLY_TIMEOUT_S}
    listeners = Listeners(fail, on_connection=on_connection)
    match address.kind:
        case "cluster":
            return RedisClient(Cluster(address, on_connection))
        case "sentinel":
            sentinel = open_sentinels(address, limits)
            master = checked(sentinel.master_for(address.master))
            return RedisClient(Node(master, listeners, sentinels=sentinel.sentinels))
        case "server":
            client = open_client(Redis, limits | address.options)
            return RedisClient(Node(client, listeners, reply_timeout_s=reply_timeout_s))
