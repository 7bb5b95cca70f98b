"""arq's queue: its address, its settings, the names of the jobs, and requesting a rebuild."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from commands.db.postgres import Engine
from commands.errors import SettingsError
from commands.log import event_log as log
from commands.settings import setting
from projections.client.address import Address, open_sentinels, parse_address
from projections.client.checked import checked, open_client
from projections.client.server_check import QUEUE_COMMANDS, check_one_redis
from projections.errors import QueueUnavailable
from projections.keys import LogNames

# To connect, and until the server has answered for the first time.
QUEUE_OPEN_TIMEOUT_S: Final = 2
# A sentinel that does not answer is left for the next one after this, so that two are asked within QUEUE_TIMEOUT_S.
SENTINEL_TIMEOUT_S: Final = 0.2

WAKE_JOB: Final = "wake"
# There is one rebuild at a time: the job's id is made of its name.
REBUILD_JOB: Final = "rebuild"
# Every job is due since then: a worker whose clock is behind that of the process that enqueues would wait otherwise.
# Not 0, which arq takes for "not queued".
DUE: Final = datetime.fromtimestamp(0.001, UTC)
# By Redis' clock, from when a job is enqueued. A wake-up that is lost is found by the loop's next look at the log. A
# rebuild is requested rarely and must not be lost while no rebuilder runs.
WAKE_JOB_EXPIRES_S: Final = 86_400
REBUILD_EXPIRES_S: Final = 30 * 86_400

# arq puts exceptions into results; their texts are kept.
encode_job: Final = msgspec.msgpack.Encoder(enc_hook=str).encode


class QueueSettings(msgspec.Struct):
    """The address of arq's queue and of the wake-ups: a plain Redis or the master of sentinels, never a cluster.

    ``names`` are those of the log, None until ``learn_names`` has read its id: nothing is sent or received before.
    """

    queue_url: str
    names: LogNames | None = None

    @classmethod
    def from_env(cls) -> QueueSettings:
        """Read QUEUE_URL, else REDIS_URL; raises SettingsError when both are missing or it is a cluster's."""
        given = setting("QUEUE_URL")
        url = given or setting("REDIS_URL")
        if not url:
            raise SettingsError("neither QUEUE_URL nor REDIS_URL is set")
        if parse_address(url, "QUEUE_URL" if given else "REDIS_URL").kind == "cluster":
            raise SettingsError("QUEUE_URL must name a plain Redis: the views can be in a cluster, arq's queue cannot")
        return cls(url)

    async def learn_names(self, engine: Engine) -> LogNames:
        """Read the log's id unless it is known, and return the names. Raises LogUnavailable."""
        if self.names is None:
            self.names = LogNames(str(await log.read_log_id(engine)))
        return self.names


async def open_queue(settings: QueueSettings) -> ArqRedis:
    """Connect to the queue, with msgpack as arq's serialiser (its default is pickle, which can run code).

    There is a single quick try, as callers retry in their own way. Raises RedisError or OSError, also when it takes
    longer than ``QUEUE_OPEN_TIMEOUT_S``.
    """
    async with asyncio.timeout(QUEUE_OPEN_TIMEOUT_S):
        queue = _client(parse_address(settings.queue_url, "QUEUE_URL"))
        queue.job_serializer = encode_job
        queue.job_deserializer = msgspec.msgpack.decode
        try:
            await queue.ping()
        except BaseException:
            await queue.aclose()
            raise
        return queue


async def check_queue(settings: QueueSettings) -> None:
    """Check the queue's Redis as ``check_one_redis`` does; raises SettingsError.

    A queue that is away is used when it is back, and what uses it logs that it is away.
    """
    queue = _client(parse_address(settings.queue_url, "QUEUE_URL"))
    try:
        with suppress(RedisError, OSError):
            async with asyncio.timeout(QUEUE_OPEN_TIMEOUT_S):
                await check_one_redis(queue, "the Redis of the queue", QUEUE_COMMANDS)
    finally:
        await queue.aclose()


def _client(address: Address) -> ArqRedis:
    if address.kind != "sentinel":
        return open_client(ArqRedis, {"socket_connect_timeout": QUEUE_OPEN_TIMEOUT_S, **address.options})
    # If a sentinel's host has vanished, redis-py waits until the kernel gives up before it asks the next one.
    limits = {"socket_connect_timeout": SENTINEL_TIMEOUT_S, "socket_timeout": QUEUE_OPEN_TIMEOUT_S}
    sentinels = open_sentinels(address, limits)
    for sentinel in sentinels.sentinels:
        sentinel.connection_pool.connection_kwargs["socket_timeout"] = SENTINEL_TIMEOUT_S
    queue: ArqRedis = sentinels.master_for(address.master, redis_class=ArqRedis)
    return checked(queue)


async def enqueue_rebuild(engine: Engine, settings: QueueSettings, options: dict[str, Any]) -> bool:
    """Enqueue a rebuild for the rebuilder process; return False when one is queued or running already.

    Raises LogUnavailable and QueueUnavailable.
    """
    names = await settings.learn_names(engine)
    try:
        queue = await open_queue(settings)
        try:
            job = await queue.enqueue_job(
                REBUILD_JOB,
                options,
                _job_id=names.job(REBUILD_JOB),
                _queue_name=names.rebuild_queue(),
                _defer_until=DUE,
                _expires=REBUILD_EXPIRES_S,
            )
        finally:
            await queue.aclose()
    except (RedisError, OSError) as error:
        raise QueueUnavailable from error
    return job is not None
