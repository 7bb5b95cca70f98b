"""The rebuilder's job: rebuilds that were requested with ``follows rebuild --job``, one at a time.

arq notes that a job runs but not in which process, and keeps the note for as long as the job may take: here, days. So
the rebuild of a killed process would never be resumed. A build holds a lease, though. When the job is noted as running
and no living process has held the lease for a while, the note is wrong and is deleted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any, Final

import msgspec
from arq.constants import in_progress_key_prefix
from arq.worker import Retry
from redis.exceptions import RedisError

from commands.coordination import leases
from commands.db.postgres import Engine
from commands.errors import Unavailable
from projections.client.client import RedisClient
from projections.errors import BatchRefused, BuildRunning, Fenced, OtherFeeder, RebuildRefused, ViewLost
from projections.keys import LogNames
from projections.rebuild.build import BUILD_LEASE_WAIT_S
from projections.rebuild.pace import BuildProgress
from projections.rebuild.rebuild import Builder, RebuildOptions
from projections.signals.job_queue import REBUILD_JOB
from projections.signals.wakeups import Wakeup
from projections.views.feeder_record import store_of
from projections.views.server_watch import wait_for_answer
from workers.connections import Connections

logger: Final = logging.getLogger(__name__)

# No rebuild takes that long.
REBUILD_TIMEOUT_S: Final = 30 * 86_400.0
REBUILD_RETRY_S: Final = 5
# The interval at which the rebuilder looks for a job whose process is gone.
ORPHAN_CHECK_S: Final = 1.0
# A job that has just begun waits for the lease of the one before and holds none meanwhile. If its note were deleted
# then, the job would run twice.
ORPHANED_S: Final = BUILD_LEASE_WAIT_S + 1.0
PROGRESS_LOG_S: Final = 10.0


class OrphanedJob:
    """Finds the rebuild job of a process that was killed, and lets arq start it again."""

    def __init__(self, engine: Engine, redis: RedisClient, wakeup: Wakeup, orphaned_s: float = ORPHANED_S) -> None:
        self._engine, self._redis, self._wakeup, self._orphaned_s = engine, redis, wakeup, orphaned_s
        self._watch = leases.LeaseWatch(engine)
        self._since: float | None = None
        # Set by the job itself while this process runs it.
        self.runs_here = False
        # How the rebuilds of this process have ended: "done", "stopped" by an outage, or "refused".
        self.ended: Counter[str] = Counter()
        # How many rebuilds wait or run, as of the last check; None when the queue did not answer.
        self.queued: int | None = None

    async def check(self) -> None:
        """Delete arq's note when it has been wrong for long enough; to be called again and again.

        Raises LogUnavailable, ViewsUnavailable.
        """
        self.queued = await self._wakeup.ask(lambda queue, names: queue.zcard(names.rebuild_queue()))
        if self.runs_here or not await self._is_noted() or await self._is_building():
            self._since = None
            return
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since >= self._orphaned_s:
            logger.warning("the process that ran the rebuild is gone; the rebuild is resumed")
            await self._wakeup.ask(lambda queue, names: queue.delete(running_note(names)))

    async def _is_noted(self) -> bool:
        return bool(await self._wakeup.ask(lambda queue, names: queue.exists(running_note(names))))

    async def _is_building(self) -> bool:
        await wait_for_answer(self._redis)  # without Redis the living owners do not renew either
        await self._watch.look()
        return any(lease.name == leases.BUILD_LEASE for lease in await leases.list_leases(self._engine))


def running_note(names: LogNames) -> str:
    """Return arq's key that says that the job runs."""
    return in_progress_key_prefix + names.job(REBUILD_JOB)


async def rebuild_views(ctx: dict[str, Any], options: dict[str, Any]) -> None:
    """Rebuild the views; after a failure that passes by itself, the next try resumes the same generation."""
    connections: Connections = ctx["connections"]
    if options.get("store", "") not in ("", await store_of(connections.views)):
        raise Retry(defer=REBUILD_RETRY_S)  # it is for another Redis: its rebuilder has the same queue
    orphaned: OrphanedJob = ctx["orphaned"]
    orphaned.runs_here = True
    try:
        async with Builder(connections.engine, connections.views, connections.queue) as builder:
            view = await builder.rebuild(msgspec.convert(options, RebuildOptions), ProgressLogger().show)
            orphaned.ended["done"] += 1
            logger.info("the rebuild is done: readers see generation %d", view.generation)
    except RebuildRefused as error:
        orphaned.ended["refused"] += 1
        logger.error("the rebuild was refused: %s", error)
    except (Unavailable, BuildRunning, Fenced, OtherFeeder, ViewLost, BatchRefused, RedisError, OSError) as error:
        orphaned.ended["stopped"] += 1
        logger.warning("the rebuild stopped and is resumed in %d s: %s", REBUILD_RETRY_S, error)
        await asyncio.sleep(REBUILD_RETRY_S)  # arq would compare the clocks of two processes
        raise Retry from error
    finally:
        orphaned.runs_here = False


class ProgressLogger:
    """Logs now and then how far a rebuild is."""

    def __init__(self) -> None:
        self._began = self._logged = time.monotonic()

    def show(self, progress: BuildProgress) -> None:
        """Log a line if the last one is old enough; called after every batch."""
        now = time.monotonic()
        if now - self._logged < PROGRESS_LOG_S:
            return
        self._logged = now
        rate, done = progress.events / (now - self._began), 100 * progress.position // max(progress.head, 1)
        logger.info("generation %d is at %d %%, %d events/s", progress.view.generation, done, rate)
