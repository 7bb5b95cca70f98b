"""The rebuilder's jobs: rebuilds that were asked for with ``follows rebuild --job``, one at a time.

arq notes that a job runs, but not who runs it, and keeps that note for as long as the job may take, which here is days.
So a rebuild whose worker was killed would not be taken up again. But who builds holds a lease; where nobody has held it
for a while, nobody builds, and the note is wrong.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec
from arq.constants import in_progress_key_prefix
from arq.worker import Retry
from redis.exceptions import RedisError

from commands import leases
from commands.errors import Unavailable
from projections.building import PATIENCE_S, BuildRunning, Progress
from projections.catch_up import Broken, Fenced, ViewLost
from projections.rebuilding import Builder, Order, RebuildRefused
from projections.wakeup import REBUILD_JOB

logger: Final = logging.getLogger(__name__)

# No rebuild takes that long.
REBUILD_S: Final = 30 * 86_400.0
AGAIN_S: Final = 5
# A job that has just begun waits for the lease of the one before, and has none meanwhile. Without its note it would be
# started twice.
FORLORN_S: Final = PATIENCE_S + 1.0
SAY_S: Final = 10.0


class Forlorn(msgspec.Struct):
    """Since when the job has been noted as running, while nobody seems to run it."""

    since: float | None = None


async def rebuild(ctx: dict[str, Any], order: dict[str, Any]) -> None:
    """Do what was ordered; what passes by itself is tried again, from where it stopped."""
    try:
        async with Builder(ctx["engine"], ctx["store"], ctx["queue"]) as builder:
            view = await builder.rebuild(msgspec.convert(order, Order), Teller().tell)
            logger.info("the rebuild is done: readers see generation %d", view.generation)
    except RebuildRefused as error:
        logger.error("the rebuild was refused: %s", error)
    except (Unavailable, BuildRunning, Fenced, ViewLost, Broken, RedisError, OSError) as error:
        logger.warning("the rebuild goes on in %d s: %s", AGAIN_S, error)
        raise Retry(defer=AGAIN_S) from error


async def find_killed(ctx: dict[str, Any]) -> None:
    """Let a rebuild be taken up again whose worker is gone. Called each second, it looks for how long the job has been
    noted as running while it is run neither here (``ctx["tasks"]`` are this worker's) nor by who holds the lease."""
    noted = await ctx["redis"].exists(in_progress_key_prefix + REBUILD_JOB)
    if not noted or REBUILD_JOB in ctx["tasks"] or await _is_building(ctx):
        ctx["forlorn"].since = None
        return
    forlorn: Forlorn = ctx["forlorn"]
    forlorn.since = forlorn.since or time.monotonic()
    if time.monotonic() - forlorn.since >= FORLORN_S:
        logger.warning("the worker that rebuilt is gone; the rebuild is taken up again")
        await ctx["redis"].delete(in_progress_key_prefix + REBUILD_JOB)


async def _is_building(ctx: dict[str, Any]) -> bool:
    return any(lease.name == leases.BUILD for lease in await leases.owners(ctx["engine"]))


class Teller:
    """Says in the log how far a rebuild is, now and then."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def tell(self, progress: Progress) -> None:
        """Take note; called after every batch."""
        now = time.monotonic()
        if now - self._said < SAY_S:
            return
        self._said = now
        rate, done = progress.events / (now - self._began), 100 * progress.position // max(progress.head, 1)
        logger.info("generation %d is at %d %%, %d events/s", progress.view.generation, done, rate)
