"""Making a server evict keys, and a client that looks at it as web processes and workers do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from commands.db.postgres import Engine
from projections.client.client import RedisClient
from projections.rebuild.evictions import keep_valid
from tests.support.fixtures import Plain

BALLAST = 1_000
# How often the limit is set below what is used, until the server evicts.
LIMITS = 20
# Shorter than the product's interval, so that tests wait less.
LOOK_INTERVAL_S = 0.01


def evict_some(raw_redis: Plain, tag: str = "", policy: str = "volatile-random") -> int:
    """Let the server evict a tenth of its keys; return its evicted_keys. The memory stays full, and the policy is
    noeviction afterwards.

    Under the default policy only ballast is evicted: keys with names that begin with ``tag``. So the count alone shows
    it. Under an ``allkeys`` policy any key may be evicted.
    """
    raw_redis.config_set("maxmemory", 0)
    for number in range(BALLAST):
        raw_redis.set(f"{tag}ballast:{number}", bytes(1_000), ex=100_000)
    evicted = before = _evicted(raw_redis)
    raw_redis.config_set("maxmemory-policy", policy)
    # Memory may become free between the question and the limit: of a replica's buffer, for one.
    for _ in range(LIMITS):
        raw_redis.config_set("maxmemory", raw_redis.info("memory")["used_memory"] - BALLAST * 100)
        raw_redis.ping()
        if (evicted := _evicted(raw_redis)) > before:
            break
    raw_redis.config_set("maxmemory-policy", "noeviction")
    assert evicted > before
    return evicted


def _evicted(raw_redis: Plain) -> int:
    return int(raw_redis.info("stats")["evicted_keys"])


def remove_ballast(raw_redis: Plain) -> None:
    """Make room again, in memory and under the limit."""
    raw_redis.config_set("maxmemory", 0)
    if ballast := raw_redis.keys("*ballast:*"):
        raw_redis.delete(*ballast)


@asynccontextmanager
async def keeping_valid(engine: Engine, redis: RedisClient, interval_s: float = LOOK_INTERVAL_S) -> AsyncIterator[None]:
    """A worker's watch for evicted keys."""
    task = asyncio.create_task(keep_valid(engine, redis, interval_s))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
