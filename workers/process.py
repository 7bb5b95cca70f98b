"""The worker process, which projects the log, and the rebuilder, which does the rebuilds asked for as jobs.

The projection loop runs for the whole life of the process. arq runs beside it, and starts again around outages of its
Redis.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final

import uvloop

from commands.errors import SettingsError
from commands.logs import exit_refused, log_to_stderr
from commands.process import name_owner, name_process
from commands.settings import log_level, log_unknown_settings, setting
from commands.tracing import start_tracing, stop_tracing
from projections.loop import ProjectionLoop
from projections.outages import Outage
from projections.rebuild.evictions import keep_valid
from projections.signals.wakeups import Wakeup
from workers.connections import open_connections
from workers.metrics import REBUILDER, WORKER, OwnMetrics, codes_of, publish_rebuilder, publish_worker
from workers.rebuild_jobs import ORPHAN_CHECK_S, OrphanedJob
from workers.settings import make_rebuilder, make_worker
from workers.supervise import queue_outage, repeat, run_arq
from workers.sweeps import SWEEP_S, Sweeper

# After a bug has ended the loop; outages it survives by itself.
LOOP_RESTART_S: Final = 0.2


logger: Final = logging.getLogger("workers")


async def project(metrics_at: str) -> None:
    """Project, sweep and run jobs until cancelled; raises SettingsError when the process must not start."""
    async with AsyncExitStack() as stack:
        metrics = OwnMetrics(WORKER)
        await stack.enter_async_context(metrics.served(metrics_at))
        connections = await open_connections(stack)
        outage = Outage(logger, "the worker works again")
        loop = ProjectionLoop(connections.engine, connections.views, connections.queue, outage=outage)
        stack.push_async_callback(loop.close)
        name_owner(loop.leases.owner)
        logger.info("the worker projects as owner %s", loop.leases.owner)
        wakeup = Wakeup(connections.queue)
        stack.push_async_callback(wakeup.close)
        sweeper = Sweeper(connections.engine, connections.views, wakeup)
        context = {"engine": connections.engine, "loop": loop, "wakeup": wakeup, "outage": outage}
        metrics.use(lambda: codes_of(outage.code, loop.waits_for), partial(publish_worker, connections.views, loop))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(repeat("the projection", loop.run, LOOP_RESTART_S, outage))
            tasks.create_task(repeat("the sweep", sweeper.sweep, SWEEP_S, outage))
            tasks.create_task(keep_valid(connections.engine, connections.views))
            tasks.create_task(run_arq(connections.queue, partial(make_worker, context, connections.names)))


async def rebuild_on_request(metrics_at: str) -> None:
    """Run rebuild jobs until cancelled; raises SettingsError when the process must not start."""
    async with AsyncExitStack() as stack:
        metrics = OwnMetrics(REBUILDER)
        await stack.enter_async_context(metrics.served(metrics_at))
        connections = await open_connections(stack)
        wakeup = Wakeup(connections.queue)
        stack.push_async_callback(wakeup.close)
        orphaned = OrphanedJob(connections.engine, connections.views, wakeup)
        context = {"connections": connections, "orphaned": orphaned}
        checks, queue = Outage(logger, "the check for an orphaned rebuild works again"), queue_outage()
        check = repeat("the check for an orphaned rebuild", orphaned.check, ORPHAN_CHECK_S, checks)
        codes = partial(_rebuilder_codes, checks, queue)
        metrics.use(codes, partial(publish_rebuilder, connections.views, orphaned))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(check)
            tasks.create_task(run_arq(connections.queue, partial(make_rebuilder, context, connections.names), queue))


def _rebuilder_codes(checks: Outage, queue: Outage) -> list[str]:
    return codes_of(checks.code, "queue_unreachable" if queue.code else None)


async def run_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until SIGTERM or SIGINT cancels it, or it raises."""
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    working, stopped = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def run_worker(metrics_at: str | None = None) -> None:
    """Project until SIGTERM or SIGINT; exit with a sentence when the process must not start.

    Metrics and health are at the address ``metrics_at``, or at that of FOLLOWS_METRICS.
    """
    _run("worker", project, metrics_at)


def run_rebuilder(metrics_at: str | None = None) -> None:
    """Run rebuild jobs until SIGTERM or SIGINT; otherwise as ``run_worker``."""
    _run("rebuilder", rebuild_on_request, metrics_at)


def _run(kind: str, work: Callable[[str], Coroutine[Any, Any, None]], metrics_at: str | None) -> None:
    logging.getLogger("arq").setLevel(logging.WARNING)  # each start of arq is a line
    logging.getLogger("alembic").setLevel(logging.WARNING)
    name_process(kind)
    try:
        log_to_stderr(log_level())
        log_unknown_settings(logger)
        start_tracing(begins_traces=True)
        uvloop.run(run_until_stopped(work(metrics_at or setting("FOLLOWS_METRICS"))))
    except SettingsError as error:
        exit_refused(error)
    finally:
        stop_tracing()
