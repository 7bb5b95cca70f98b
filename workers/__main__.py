"""The worker process: a supervising loop around arq, which dies when its Redis goes away.

``python -m workers`` projects; ``python -m workers rebuilds`` does the rebuilds that were asked for as jobs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop
from arq.worker import Worker
from redis.exceptions import RedisError

from commands.errors import SettingsError, Unavailable
from projections.wakeup import QueueSettings
from workers.settings import make_rebuilder, make_worker, start, stop

logger: Final = logging.getLogger("workers")

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0
# A worker that has run for so long was well; its end is not a consequence of the one before.
WELL_S: Final = 10.0

Make = Callable[[QueueSettings], Worker]


async def supervise(queue: QueueSettings, stopping: asyncio.Event, make: Make = make_worker) -> None:
    """Run arq workers one after the other until ``stopping``; a fault of Postgres or Redis only costs a pause.

    Without its queue a worker that projects goes on projecting: the queue's Redis need not be that of the views.
    """
    pause, has_run = PAUSE_MIN_S, False
    until_stopped = asyncio.create_task(stopping.wait())
    while not stopping.is_set():
        began = time.monotonic()
        worker = make(queue)
        worker.main_task = asyncio.create_task(worker.main())
        await asyncio.wait({worker.main_task, until_stopped}, return_when=asyncio.FIRST_COMPLETED)
        fault = worker.main_task.exception() if worker.main_task.done() else None
        try:
            await worker.close()
        except (RedisError, OSError, asyncio.CancelledError):
            await stop(worker.ctx)
        if fault is None:
            continue
        has_run = has_run or worker.ctx.get("ready", False)
        if isinstance(fault, SettingsError) and has_run:  # a server has been changed under us, and may be changed back
            logger.error("%s", fault.message)
        elif not isinstance(fault, RedisError | OSError | Unavailable):
            raise fault
        pause = PAUSE_MIN_S if time.monotonic() - began > WELL_S else min(pause * 2, PAUSE_MAX_S)
        logger.warning("the worker stopped (%s); it starts again in %.1f s", type(fault).__name__, pause)
        without_queue = asyncio.create_task(project(pause) if make is make_worker else asyncio.sleep(pause))
        await asyncio.wait({without_queue, until_stopped}, return_when=asyncio.FIRST_COMPLETED)
        without_queue.cancel()
        await asyncio.gather(without_queue, return_exceptions=True)


async def project(seconds: float) -> None:
    """Drain without arq for so long, if Postgres and the views are there."""
    ctx: dict[str, Any] = {}
    end = time.monotonic() + seconds
    try:
        await start(ctx)
        await asyncio.sleep(end - time.monotonic())
    except (RedisError, OSError, Unavailable) as error:
        logger.debug("nothing can be projected meanwhile: %s", error)
    finally:
        await stop(ctx)
    await asyncio.sleep(end - time.monotonic())


async def main(make: Make) -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    await supervise(QueueSettings.from_env(), stopping, make)


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("FOLLOWS_LOG_LEVEL", "INFO"), format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("arq").setLevel(logging.WARNING)  # a line per cron second is no news
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if sys.argv[1:] not in ([], ["rebuilds"]):
        sys.exit("usage: python -m workers [rebuilds]")
    try:
        uvloop.run(main(make_rebuilder if sys.argv[1:] else make_worker))
    except SettingsError as error:
        sys.exit(f"error: {error.message}")
