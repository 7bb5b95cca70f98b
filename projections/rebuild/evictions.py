"""Evicted keys, as workers handle them: each view that was begun before is invalidated, so that the next is built.

Web processes stop reading such a view by themselves (projections/views/server_watch.py). Workers must invalidate it
soon all the same: a server that is restarted counts from 0 again and no longer shows that keys are missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

from msgspec import DecodeError
from redis.exceptions import ResponseError

from commands.db.postgres import Engine
from commands.errors import Unavailable
from projections.client.client import RedisClient
from projections.keys import View
from projections.views import generations
from projections.views.feeder_record import registered
from projections.views.server_watch import WATCH_INTERVAL_S, ServerState, evicted_since, read_servers, wrong_policy

logger: Final = logging.getLogger(__name__)


async def invalidate_evicted(engine: Engine, redis: RedisClient) -> None:
    """Invalidate each view whose build began before a server evicted keys: live, old or half-built, not kept.

    The servers' counts are read after those of the views: a view that another worker has begun since the eviction is
    never compared with a count from before it. Raises Unavailable when a view could not be invalidated.
    """
    await _clear_live(redis)
    views = [View(row.number, row.partitions) for row in await registered(engine, redis) if row.state != "kept"]
    began = [await generations.evicted_at_begin(redis, view) for view in views]
    servers = await read_servers(redis)
    stale = [view for view, evicted in zip(views, began, strict=True) if evicted_since(servers, evicted)]
    await asyncio.gather(*[generations.invalidate(redis, view) for view in stale])


async def _clear_live(redis: RedisClient) -> None:
    """Clear the pointer and invalidate the live view if keys were evicted since its build began.

    This comes first, and without Postgres: a server that is restarted in the middle counts from 0.
    """
    live = None
    with suppress(DecodeError, ResponseError):  # an unreadable pointer: reads are 503 anyway
        live = await generations.read_pointer(redis)
    if live is None or (problem := evicted_since(await read_servers(redis), live.evicted)) is None:
        return
    if await generations.clear_pointer(redis, live.view):
        logger.error(
            "%s has evicted keys: set its maxmemory-policy to noeviction; generation %d is invalid and will be rebuilt",
            problem.server,
            live.view.generation,
        )
    await generations.invalidate(redis, live.view)


async def wait_for_policy(redis: RedisClient, still_ours: Callable[[], Awaitable[None]]) -> None:
    """Return when no server may evict keys; a view that is built earlier would be invalid at once.

    ``still_ours`` is called meanwhile and raises when the right to build is lost.
    """
    while wrong_policy(await read_servers(redis)) is not None:
        await still_ours()
        await asyncio.sleep(WATCH_INTERVAL_S)


async def keep_valid(engine: Engine, redis: RedisClient, interval_s: float = WATCH_INTERVAL_S) -> NoReturn:
    """Run in each worker: look at the servers every ``interval_s``, and invalidate what was begun before an eviction.

    The pointer is checked each time: a view that was begun before an eviction may go live after it.
    """
    handled: dict[str, ServerState | None] | None = None
    logged = None
    while True:
        try:
            servers = await read_servers(redis)
            if (problem := wrong_policy(servers)) is not None and problem != logged:
                logger.error("%s %s; until then reads are 503 and no view is built", problem.server, problem.reason)
            logged = problem
            if servers != handled:
                await invalidate_evicted(engine, redis)
                handled = servers
            else:
                await _clear_live(redis)
        except Unavailable:
            pass  # the next look tries again
        except Exception:  # no caller waits for this task
            logger.exception("the views could not be checked for evicted keys; the next look tries again")
        await asyncio.sleep(interval_s)
