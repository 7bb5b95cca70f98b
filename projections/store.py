"""The connection to the Redis that holds the views: settings, checks, and one pipeline per turn of the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec
from hiredis import pack_command
from redis import exceptions
from redis.asyncio import Redis

from commands.errors import SettingsError, StoreUnavailable

logger: Final = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
# Commands of one pipeline: more would only make the first wait for the last.
PIPELINE_MAX: Final = 1_000
# Connections beyond this would queue in Redis anyway.
CONNECTIONS_MAX: Final = 32

# What a server says when it is there but cannot serve: full, a replica, loading, cut off.
_NOT_NOW: Final = (
    "OOM",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "TRYAGAIN",
    "BUSY",
)


class StoreSettings(msgspec.Struct, frozen=True):
    """Where the views are."""

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
    """Sends commands to Redis; those issued in the same turn of the event loop share one round trip."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._pending: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def client(self) -> Redis:
        """The plain client, for what is rare: checks, scans, publishing."""
        return self._client

    async def close(self) -> None:
        """Close the connections once what is under way has been answered."""
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._client.aclose()

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send one command with the others of this turn; the future gives the raw answer (bytes, int, list, None).

        It raises StoreUnavailable when the server is not there or cannot serve, else redis' ResponseError.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._flush)
        self._pending.append((command, future))
        return future

    async def run(self, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """Run a script with the others of this turn; raises like ``call``."""
        suffix = "_RO" if script.reads else ""
        try:
            return await self.call(f"EVALSHA{suffix}", script.sha, len(keys), *keys, *arguments)
        except exceptions.NoScriptError:
            return await self.call(f"EVAL{suffix}", script.text, len(keys), *keys, *arguments)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give the strings under ``keys``, which may be of any lanes, in one round trip; raises like ``call``."""
        answer: list[bytes | None] = await self.call("MGET", *keys)
        return answer

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        for start in range(0, len(pending), PIPELINE_MAX):
            task = asyncio.get_running_loop().create_task(self._send(pending[start : start + PIPELINE_MAX]))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        """One round trip on a connection of its own; every future of the batch is answered, whatever happens."""
        answers: list[Any] = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._exchange([command for command, _ in batch], answers)
        except (exceptions.RedisError, OSError) as error:
            logger.warning("the read store does not answer: %s", type(error).__name__)
        except Exception:
            logger.exception("a pipeline of %d commands failed", len(batch))
        finally:
            answers += [StoreUnavailable()] * (len(batch) - len(answers))
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # who asked may have gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(translated(answer))
                else:
                    future.set_result(answer)

    async def _exchange(self, commands: list[tuple[Any, ...]], answers: list[Any]) -> None:
        """Send the commands packed as one write and append their answers, an error among them as a value.

        redis-py's own pipeline packs in Python, which took most of a projection's time. A connection that has not given
        all its answers is closed, so that none can reach a later request.
        """
        pool = self._client.connection_pool
        connection = await pool.get_connection()
        try:
            packed = [pack_command(command) for command in commands]
            await connection.send_packed_command(packed, check_health=False)
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except exceptions.ResponseError as error:
                    answers.append(error)
        finally:
            if len(answers) < len(commands):
                await connection.disconnect(nowait=True)
            await pool.release(connection)


def translated(error: Exception) -> Exception:
    """Turn what means "Redis is not there or cannot serve" into StoreUnavailable; give back all else."""
    if isinstance(error, exceptions.ResponseError) and not str(error).startswith(_NOT_NOW):
        busy = isinstance(error, exceptions.OutOfMemoryError | exceptions.ReadOnlyError)
        return StoreUnavailable() if busy else error
    if isinstance(error, exceptions.RedisError | OSError | asyncio.TimeoutError):
        return StoreUnavailable()
    return error


def open_store(settings: StoreSettings) -> Store:
    """Make the store of this process; connects on first use. Raises SettingsError on a URL that cannot be read."""
    try:
        client = Redis.from_url(
            settings.redis_url,
            socket_connect_timeout=TIMEOUT_S,
            max_connections=CONNECTIONS_MAX * 8,
        )
    except ValueError as error:
        raise SettingsError("REDIS_URL cannot be read as a redis://, rediss:// or unix:// URL") from error
    return Store(client)


async def check_store(store: Store) -> None:
    """Refuse a server that would drop parts of a view, warn of one that forgets all in a restart."""
    try:
        memory: dict[str, Any] = await store.client.info("memory")
        persistence: dict[str, Any] = await store.client.info("persistence")
    except (exceptions.RedisError, OSError) as error:
        raise StoreUnavailable from error
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise SettingsError(f"the Redis at REDIS_URL has maxmemory-policy {policy}: set it to noeviction")
    if not persistence.get("aof_enabled"):
        logger.warning("the Redis at REDIS_URL has no append-only file: after its restart the views must be rebuilt")
