"""Metrics that all kinds of processes have."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from projections.client.client import RedisClient
from projections.metrics.publish import HIGHEST, Totals

READY: Final = Gauge(
    "follows_process_ready",
    "1 while the process does its work; of several web processes, while one of them does.",
    multiprocess_mode=HIGHEST,
    registry=None,
)
ROUND_TRIPS: Final = Counter(
    "follows_redis_round_trips_total", "Writes to the Redis of the views, each of one or more commands.", registry=None
)
DISCONNECTS: Final = Counter(
    "follows_redis_disconnects_total", "Connections to the Redis of the views that have ended.", registry=None
)


def new_registry() -> CollectorRegistry:
    """Return the registry of a kind of process, with these metrics."""
    registry = CollectorRegistry()
    for metric in (READY, ROUND_TRIPS, DISCONNECTS):
        registry.register(metric)
    return registry


def publish_redis(totals: Totals, redis: RedisClient) -> None:
    """Publish what the client of the views has counted."""
    totals.add(ROUND_TRIPS, redis.round_trips)
    totals.add(DISCONNECTS, redis.disconnects)
