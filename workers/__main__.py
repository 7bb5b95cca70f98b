"""The worker process, ``python -m workers``: a supervising loop around arq, which dies when its Redis goes away."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Final

import uvloop
from redis.exceptions import RedisError

from commands.errors import SettingsError, Unavailable
from projections.wakeup import QueueSettings
from workers.settings import make_worker, stop

logger: Final = logging.getLogger("workers")

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0


async def supervise(queue: QueueSettings, stopping: asyncio.Event) -> None:
    """Run arq workers one after the other until ``stopping``; a fault of Postgres or Redis only costs a pause."""
    pause = PAUSE_MIN_S
    until_stopped = asyncio.create_task(stopping.wait())
    while not stopping.is_set():
        worker = make_worker(queue)
        worker.main_task = asyncio.create_task(worker.main())
        await asyncio.wait({worker.main_task, until_stopped}, return_when=asyncio.FIRST_COMPLETED)
        fault = worker.main_task.exception() if worker.main_task.done() else None
        try:
            await worker.close()
        except (RedisError, OSError, asyncio.CancelledError):
            await stop(worker.ctx)
        if fault is None:
            continue
        if not isinstance(fault, RedisError | OSError | Unavailable):
            raise fault
        logger.warning("the worker stopped (%s); it starts again in %.1f s", type(fault).__name__, pause)
        await asyncio.wait({until_stopped}, timeout=pause)
        pause = min(pause * 2, PAUSE_MAX_S)


async def main() -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    await supervise(QueueSettings.from_env(), stopping)


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("FOLLOWS_LOG_LEVEL", "INFO"), format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("arq").setLevel(logging.WARNING)  # a line per cron second is no news
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        uvloop.run(main())
    except SettingsError as error:
        sys.exit(f"error: {error.message}")
