"""Metrics that all kinds of processes have."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from projections.client.client import RedisClient
from projections.metrics.publish import HIGHEST, Totals, set_gauge

READY: Final = Gauge(
    "follows_process_ready",
    "1 while the process does its work; of several web processes, while one of them does.",
    multiprocess_mode=HIGHEST,
    registry=None,
)
PUBLISHED: Final = Gauge(
    "follows_process_published_seconds",
    "When the process published last, by the monotonic clock of its host; of several web processes, the latest.",
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
    for metric in (READY, PUBLISHED, ROUND_TRIPS, DISCONNECTS):
        registry.register(metric)
    return registry


def publish_ready(ready: bool) -> None:
    """Publish that the event loop runs, and whether the process does its work."""
    set_gauge(READY, ready)
    set_gauge(PUBLISHED, time.monotonic())


def publish_redis(totals: Totals, redis: RedisClient) -> None:
    """Publish what the client of the views has counted."""
    totals.add(ROUND_TRIPS, redis.round_trips)
    totals.add(DISCONNECTS, redis.disconnects)
