"""Keeping a worker's tasks running: periodic work goes on after a failure, and arq is started again when it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

from arq.connections import ArqRedis
from arq.worker import Worker

from projections.outages import Outage, reason
from projections.signals.job_queue import QueueSettings, open_queue

logger: Final = logging.getLogger(__name__)

# arq ends when the queue's Redis goes away. The pause before it starts again doubles from one to the other.
ARQ_PAUSE_MIN_S: Final = 0.1
ARQ_PAUSE_MAX_S: Final = 2.0
# An arq worker that ran this long was healthy, so the next pause is short again.
ARQ_HEALTHY_S: Final = 10.0


class StoppedError(Exception):
    """Work that has no end has ended by itself."""


async def repeat(
    name: str, work: Callable[[], Awaitable[object]], pause_s: float, outage: Outage | None = None
) -> None:
    """Call ``work`` again and again with a pause in between, until cancelled; a failure of any class is logged.

    The pause is kept whatever has happened, also when something in ``work`` was cancelled by itself. Tasks that share
    an ``outage`` log one line for what makes them all fail.
    """
    outage = outage or Outage(logger, f"{name} works again")
    while True:
        try:
            await work()
            outage.end()
        except (Exception, asyncio.CancelledError) as error:
            failure = _failure(error)  # also a bug: the worker's other tasks need not stop for it
            outage.begin(failure, "%s failed and is tried again every %g s: %s", name, pause_s, reason(failure))
        await asyncio.sleep(pause_s)


def queue_outage() -> Outage:
    """Return the outages of the queue, for ``run_arq``."""
    return Outage(logger, "the queue answers again: jobs run")


async def run_arq(queue: QueueSettings, make: Callable[[ArqRedis], Worker], outage: Outage | None = None) -> None:
    """Run one arq worker after the other, until cancelled; ``make`` returns one for a connection to the queue.

    Whatever ends a worker, there is another after a pause.
    """
    pause = ARQ_PAUSE_MIN_S
    outage = outage or queue_outage()
    while True:
        began = time.monotonic()
        try:
            await _run_to_its_end(queue, make, outage)
            failure: Exception = StoppedError("arq has ended by itself")
        except (Exception, asyncio.CancelledError) as error:
            failure = _failure(error)
        pause = ARQ_PAUSE_MIN_S if time.monotonic() - began > ARQ_HEALTHY_S else min(pause * 2, ARQ_PAUSE_MAX_S)
        outage.begin(failure, "no jobs: the queue does not answer (%s)", reason(failure))
        await asyncio.sleep(pause)


async def _run_to_its_end(queue: QueueSettings, make: Callable[[ArqRedis], Worker], outage: Outage) -> None:
    """Run a worker until it fails or this task is cancelled; its jobs are cancelled then, and run again later."""
    connection = await open_queue(queue)
    try:
        worker = make(connection)
        worker.main_task = asyncio.create_task(worker.main())
        outage.end()
        try:
            await worker.main_task
        finally:
            worker.handle_sig(signal.SIGTERM)  # cancels the jobs; worker.close() stops half-way if one was cut off
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    finally:
        await connection.aclose()


def _failure(error: BaseException) -> Exception:
    """Return what ended the work; raise CancelledError when it is this task that was told to end."""
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    return StoppedError("a part of it was cancelled")
