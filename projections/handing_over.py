"""After a switch: keep the new view level, and tell of it, until the live workers have taken it over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from commands import leases
from commands.errors import Unavailable
from commands.postgres import Engine
from projections.catch_up import Broken, Fenced, Projector, ViewLost
from projections.keys import APPLIED_CHANNEL, GROUPS, WAKE_CHANNEL
from projections.wakeup import QueueSettings, open_queue, progress_message

logger: Final = logging.getLogger(__name__)

# Workers look at the pointer once a second, and now they are woken; should they be slower, others will be as well.
PATIENCE_S: Final = 5.0
IDLE_S: Final = 0.01


async def hand_over(engine: Engine, queue: QueueSettings, projector: Projector) -> None:
    """Go on until a worker's fence stops us, or there is none. Whatever fails here, readers have been switched."""
    try:
        async with _heard(queue) as publisher:
            await _go_on(engine, publisher, projector)
    except Fenced:
        logger.info("the live workers have taken over generation %d", projector.view.generation)
    except (Unavailable, ViewLost, Broken) as error:
        logger.warning("nobody keeps generation %d level until a worker does: %s", projector.view.generation, error)


async def _go_on(engine: Engine, publisher: Redis | None, projector: Projector) -> None:
    await _tell(publisher, projector)
    if not any(lease.name.startswith(leases.LANES) for lease in await leases.owners(engine)):
        return
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if await projector.step():
            await _tell(publisher, projector)
        else:
            await projector.settle()
            await projector.check()
            await asyncio.sleep(IDLE_S)


async def _tell(publisher: Redis | None, projector: Projector) -> None:
    """Tell the waiting commands how far readers can see, and the workers that there is something new to see."""
    if publisher is None:
        return
    await projector.check()  # had we stood still meanwhile, Redis could have lost what we know to be written
    # Its profiles were read at another moment than those of the view before: none that readers remember need be right.
    message = progress_message(projector.position, range(GROUPS), projector.view.generation, None)
    try:
        await publisher.publish(APPLIED_CHANNEL, message)
        await publisher.publish(WAKE_CHANNEL, projector.position)
    except (RedisError, OSError) as error:
        logger.warning("the queue does not answer: %s", error)


@asynccontextmanager
async def _heard(queue: QueueSettings) -> AsyncIterator[Redis | None]:
    """The queue's connection; None when it does not answer, which only costs time."""
    try:
        publisher = await open_queue(queue)
    except (RedisError, OSError) as error:
        logger.warning("the queue does not answer: %s", error)
        yield None
        return
    try:
        yield publisher
    finally:
        await publisher.aclose()
