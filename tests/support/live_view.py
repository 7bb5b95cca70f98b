"""A projection loop at work, and the view that it keeps up to date."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.feeding.feeders import require_feeder
from projections.keys import View
from projections.loop import LoopTiming, ProjectionLoop
from projections.signals.job_queue import QueueSettings
from projections.views import generations
from tests.support.waiting import until

# Checks and renewals come twenty times as often as in a worker, so that a test need not wait for them.
FAST = LoopTiming(idle_s=0.05, renew_s=0.05)
# Nothing happens without a wake-up for as long as a test lasts.
ONLY_WOKEN = LoopTiming(idle_s=600.0, renew_s=600.0, acquire_s=600.0)


@asynccontextmanager
async def projecting(
    engine: Engine, redis: RedisClient, queue: QueueSettings, timing: LoopTiming | None = None
) -> AsyncIterator[ProjectionLoop]:
    """Run a worker's projection loop until the block ends; fails if the loop has ended by itself."""
    loop = ProjectionLoop(engine, redis, queue, timing)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        assert not task.done(), f"the loop ended: {task.exception()!r}"
        task.cancel()
        await asyncio.wait({task})
        await loop.close()


async def made_store(engine: Engine, redis: RedisClient) -> str:
    """Return the word of this Redis, which the engine's database feeds from now on."""
    return (await require_feeder(engine, redis)).store


async def up_to_date_view(engine: Engine, redis: RedisClient) -> View:
    """Return the live view as soon as all of its partitions are at the end of the log."""

    async def reached() -> View | None:
        view = await generations.live_view(redis)
        if view is None:
            return None
        found = await generations.checkpoints(redis, view, range(view.partitions))
        end = (await log.head(engine)).position
        return view if all(checkpoint and checkpoint.position == end for checkpoint in found.values()) else None

    view: View | None = await until(reached)
    assert view is not None
    return view
