"""Metrics and health of the worker and the rebuilder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from projections.client.client import RedisClient
from projections.loop import ProjectionLoop
from projections.metrics.process_metrics import READY, new_registry, publish_ready, publish_redis
from projections.metrics.publish import Totals, publish_each_second, set_gauge
from projections.metrics.server import HANGS_AFTER_S, ProcessHealth, serving_metrics
from workers.rebuild_jobs import OrphanedJob

WORKER: Final = new_registry()
EVENTS: Final = Counter(
    "follows_projected_events_total", "Events that this worker has read and applied.", registry=WORKER
)
POSITION: Final = Gauge(
    "follows_projected_position", "Position that all partitions of this worker have reached.", registry=WORKER
)
LEASES: Final = Gauge("follows_leases_held", "Lease groups that this worker holds.", registry=WORKER)
HEALING: Final = Gauge("follows_healing", "1 while this worker builds a view in place of a lost one.", registry=WORKER)
HEALED: Final = Counter(
    "follows_heals_total", "Builds in place of a lost view, by how they ended.", ["outcome"], registry=WORKER
)
REBUILDER: Final = new_registry()
REBUILDING: Final = Gauge(
    "follows_rebuilding", "1 while this process does a rebuild that was asked for as a job.", registry=REBUILDER
)
REBUILDS_QUEUED: Final = Gauge(
    "follows_rebuilds_queued", "Rebuilds that were asked for as jobs and wait or run.", registry=REBUILDER
)
REBUILDS: Final = Counter(
    "follows_rebuilds_total",
    "Rebuilds of jobs, by how they ended.",
    ["outcome"],
    registry=REBUILDER,
)
for _registry in (WORKER, REBUILDER):
    ProcessCollector(registry=_registry)


class OwnMetrics:
    """Metrics and health of this process, which begins as "starting"; health is asked for from another thread."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry, self._clock = registry, clock
        self._codes: Callable[[], list[str]] = lambda: ["starting"]
        self._publish: Callable[[Totals], None] = lambda _: None
        self._totals = Totals()
        self._ran_at = self._clock()

    def use(self, codes: Callable[[], list[str]], publish: Callable[[Totals], None]) -> None:
        """Use these from now on: ``codes`` returns what is wrong, ``publish`` is called each second."""
        self._codes, self._publish = codes, publish

    def health(self) -> ProcessHealth:
        """Return the health. A projection that an operator has paused is ready."""
        codes, alive = self._codes(), self._clock() - self._ran_at < HANGS_AFTER_S
        return ProcessHealth(ready=alive and not set(codes) - {"paused"}, degraded=codes, alive=alive)

    @asynccontextmanager
    async def served(self, address: str) -> AsyncIterator[None]:
        """Serve them at ``address`` in the block, not at all when it is "". Raises SettingsError."""
        with serving_metrics(address, self._registry, self.health) as server:
            if server is not None:
                READY.set_function(lambda: self.health().ready)  # it would stay 1 while the event loop hangs
            task = None if server is None else asyncio.create_task(publish_each_second(self._publish_all))
            try:
                yield
            finally:
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})

    def _publish_all(self) -> None:
        self._ran_at = self._clock()
        publish_ready(self.health().ready)
        self._publish(self._totals)


def publish_worker(redis: RedisClient, loop: ProjectionLoop, totals: Totals) -> None:
    """Publish what a worker has counted."""
    publish_redis(totals, redis)
    totals.add(EVENTS, loop.events)
    set_gauge(POSITION, loop.position)
    set_gauge(LEASES, len(loop.leases.fences))
    set_gauge(HEALING, loop.healer.is_running)
    for outcome in ("done", "stopped", "failed"):
        totals.add(HEALED, loop.healer.ended[outcome], outcome)


def publish_rebuilder(redis: RedisClient, jobs: OrphanedJob, totals: Totals) -> None:
    """Publish what a rebuilder has counted."""
    publish_redis(totals, redis)
    set_gauge(REBUILDING, jobs.runs_here)
    set_gauge(REBUILDS_QUEUED, jobs.queued)
    for outcome in ("done", "stopped", "refused"):
        totals.add(REBUILDS, jobs.ended[outcome], outcome)


def codes_of(*found: str | None) -> list[str]:
    """Return the codes of what is wrong, each once."""
    return sorted({code for code in found if code is not None})
