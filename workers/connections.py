"""What a worker process connects to, checked at its start."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Final

import msgspec
from redis.exceptions import RedisError

from commands.db.postgres import Engine, PostgresSettings, check_server, create_engine
from commands.db.schema import check_current
from commands.errors import Unavailable
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.client.server_check import check_redis
from projections.keys import LogNames
from projections.outages import Outage
from projections.signals.job_queue import QueueSettings, check_queue

logger: Final = logging.getLogger(__name__)

# While a server is away at the start, the pause between two tries doubles from one to the other.
START_PAUSE_MIN_S: Final = 0.1
START_PAUSE_MAX_S: Final = 2.0


class Connections(msgspec.Struct):
    """Connections to Postgres and to the views, and the address of the queue."""

    engine: Engine
    views: RedisClient
    queue: QueueSettings

    @property
    def names(self) -> LogNames:
        """Return the names of the log, which the start has read."""
        assert self.queue.names is not None
        return self.queue.names


async def open_connections(stack: AsyncExitStack) -> Connections:
    """Connect to the servers named in the environment and return when they have been checked; ``stack`` disconnects.

    A server that is away is waited for. Raises SettingsError for a setting that is missing or would lose data.
    """
    postgres, queue, redis = PostgresSettings.from_env(), QueueSettings.from_env(), RedisClientSettings.from_env()
    connections = Connections(create_engine(postgres), open_redis(redis), queue)
    stack.push_async_callback(connections.engine.dispose)
    stack.push_async_callback(connections.views.close)
    pause = START_PAUSE_MIN_S
    outage = Outage(logger, "the worker has started")
    while True:
        try:
            await check_server(connections.engine)
            await check_current(connections.engine)
            await queue.learn_names(connections.engine)
            await check_redis(connections.views)
            await check_queue(queue)
            outage.end()
            return connections
        except (Unavailable, RedisError, OSError) as error:
            outage.begin(error, "the worker cannot start yet and tries again: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, START_PAUSE_MAX_S)
