"""What a Redis must be like before a process uses it: its version, its settings, and what its user may do.

To learn what the user may do, each command is queued in a transaction that is then discarded. Redis looks at the
command, its keys and its channels when it queues it, and executes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from commands.errors import SettingsError, ViewsUnavailable
from projections.client.client import NOEVICTION, RedisClient
from projections.keys import FEEDER, GENERATIONS, POINTER, PROBE, LogNames, View

logger: Final = logging.getLogger(__name__)

# The first with scripts that only read (EVALSHA_RO).
OLDEST_REDIS: Final = (7, 0)
_LOG: Final = LogNames("any")
_VIEW: Final = View(1, 1)
_KEY: Final = _LOG.job("probe")
# They cannot be queued. Sent alone, on a connection that is closed afterwards, they change nothing.
_ALONE: Final = frozenset({"EXEC", "WATCH", "SUBSCRIBE"})
_SHOWN_MAX: Final = 12

Command = tuple[str, ...]

VIEWS_COMMANDS: Final[tuple[Command, ...]] = (
    *(("PING",), ("GET", _KEY), ("SET", _KEY, ""), ("MGET", _KEY), ("DEL", _KEY), ("UNLINK", _KEY), ("EXISTS", _KEY)),
    *(("TYPE", _KEY), ("EXPIRE", _KEY, "1"), ("INCRBY", _KEY, "1"), ("MEMORY", "USAGE", _KEY), ("SCAN", "0")),
    *(("HGET", _KEY, "a"), ("HMGET", _KEY, "a"), ("HSET", _KEY, "a", ""), ("HDEL", _KEY, "a"), ("HEXISTS", _KEY, "a")),
    *(("HSCAN", _KEY, "0"), ("ZSCAN", _KEY, "0"), ("ZADD", _KEY, "1", "a"), ("ZREM", _KEY, "a"), ("ZCARD", _KEY)),
    *(("ZCOUNT", _KEY, "0", "1"), ("ZRANGE", _KEY, "0", "1"), ("ZRANK", _KEY, "a"), ("ZSCORE", _KEY, "a")),
    *(("ZMSCORE", _KEY, "a"), ("EVAL", "", "0"), ("EVALSHA", "", "0"), ("EVAL_RO", "", "0"), ("EVALSHA_RO", "", "0")),
    *(("SET", key, "") for key in (POINTER, FEEDER, GENERATIONS, PROBE, _VIEW.checkpoint(0), _LOG.rate("a", 1))),
)
# Of a snapshot, in front of a rebuild, which does without where it may not send this.
SNAPSHOT_COMMANDS: Final[tuple[Command, ...]] = (("RESTORE", _KEY, "0", "", "REPLACE"),)
# arq puts a front of its own before the id of a job.
_JOB: Final = f"arq:job:{_LOG.job('probe')}"
QUEUE_COMMANDS: Final[tuple[Command, ...]] = (
    *(("PING",), ("UNWATCH",), ("GET", _JOB), ("SET", _JOB, ""), ("SETEX", _JOB, "1", ""), ("PSETEX", _JOB, "1", "")),
    *(("EXISTS", _JOB), ("DEL", _JOB), ("INCR", _JOB), ("EXPIRE", _JOB, "1"), ("DBSIZE",)),
    *(("ZADD", _LOG.queue(), "1", "a"), ("ZREM", _LOG.queue(), "a"), ("ZSCORE", _LOG.queue(), "a")),
    *(("ZINCRBY", _LOG.queue(), "1", "a"), ("ZCARD", _LOG.queue()), ("ZRANGEBYSCORE", _LOG.queue(), "0", "1")),
    *(("PUBLISH", _LOG.wake_channel(), ""), ("PUBLISH", _LOG.applied_channel(), "")),
    ("ZREM", "arq:abort", "a"),  # arq has this name in common for all queues, and takes the id of each job out of it
    *(("EXEC",), ("WATCH", _JOB), ("SUBSCRIBE", _LOG.wake_channel())),
)


async def check_redis(redis: RedisClient) -> None:
    """Reject servers of another kind than the address says, too old ones, those with an eviction policy, and a user who
    may not do what is needed; warn if AOF is off.

    Raises SettingsError, or ViewsUnavailable when a slot has no server. One server of a cluster may be down, since its
    replica takes over. Opens the connections, so that the end of one is noticed from now on.
    """
    for node in await redis.nodes():
        try:
            info = await check_one_redis(node.client, node.name, VIEWS_COMMANDS)
        except (exceptions.RedisError, OSError) as error:
            if not redis.clustered:
                raise ViewsUnavailable(said=str(error)) from error
            logger.warning("%s does not answer", node.name)
        else:
            check_views_server(node.name, info, clustered=redis.clustered)
            if not info.get("aof_enabled"):
                logger.warning("%s has no append-only file: after its restart the views must be rebuilt", node.name)
    await redis.connect()


async def check_one_redis(client: Redis, name: str, commands: Sequence[Command]) -> dict[str, Any]:
    """Return the INFO of a server, after checking that its version is supported and that it allows these commands.

    Raises SettingsError for an older version or a command that is refused, RedisError and OSError while the server
    cannot be asked.
    """
    try:
        info: dict[str, Any] = await client.info()
    except exceptions.NoPermissionError as error:  # of the connect, too
        raise SettingsError(_refusal(name, ["SELECT" if "'select'" in str(error) else "INFO"])) from error
    version = str(info.get("redis_version", ""))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_REDIS:
        raise SettingsError(f"{name} is Redis {version}: Redis 7.0 or Valkey 8, or a newer one, is needed")
    if refused := await refused_commands(client, commands):
        raise SettingsError(_refusal(name, refused))
    return info


def _refusal(name: str, refused: Sequence[str]) -> str:
    shown = ", ".join(refused[:_SHOWN_MAX]) + (f" and {len(refused) - _SHOWN_MAX} more" * (len(refused) > _SHOWN_MAX))
    keys = "; or the namespace is not that of the user's keys" if len(refused) > _SHOWN_MAX else ""
    return f"the user of {name} may not send: {shown}. docs/operate.md has the ACL line of a user who may{keys}"


def check_views_server(name: str, info: dict[str, Any], *, clustered: bool) -> None:
    """Raise SettingsError unless the views' server, of which INFO says ``info``, can be used."""
    if bool(info.get("cluster_enabled")) != clustered:
        raise SettingsError(f"{name} is {'no' if clustered else 'a'} part of a cluster: REDIS_URL must say so")
    policy = info.get("maxmemory_policy", NOEVICTION)
    if policy != NOEVICTION:
        raise SettingsError(f"{name} has maxmemory-policy {policy}: set it to {NOEVICTION}")


async def refused_commands(client: Redis, commands: Sequence[Command]) -> list[str]:
    """Return the commands that the user may not send, each with its key or channel where that is what is refused."""
    connection: AbstractConnection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        if refused := await _send(connection, [("MULTI",)]):
            return refused  # without a transaction the others would be executed
        queued = [command for command in commands if command[0] not in _ALONE]
        alone = [command for command in commands if command[0] in _ALONE]
        return await _send(connection, [*queued, ("DISCARD",), *alone])
    finally:
        await connection.disconnect(nowait=True)


async def _send(connection: AbstractConnection, commands: Sequence[Command]) -> list[str]:
    """Send commands in one round trip; return those that the user may not send."""
    refused = dict[str, None]()
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    for command in commands:
        try:
            await connection.read_response(disconnect_on_error=False)
        except exceptions.ResponseError as error:  # others are such as a key that another server of the cluster has
            if isinstance(error, exceptions.NoPermissionError) or "NOPERM" in str(error):  # as EXEC words it
                is_command = "command" in str(error)  # else one of its keys or channels
                refused[command[0] if is_command else " ".join(command[:2])] = None
    return list(refused)
