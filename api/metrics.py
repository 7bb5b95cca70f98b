"""Metrics of a web process, published once a second: requests, commits, caches, keys, and the state of the service."""

import asyncio
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from prometheus_client import Counter, Gauge

from api import request_counts
from api.health import problems, process_is_ready
from api.services import Services
from commands.bounded_cache import BoundedCache
from commands.cache_budget import CacheName
from commands.distribution import BATCH_BOUNDS, SECONDS_BOUNDS
from projections.metrics.process_metrics import new_registry, publish_ready, publish_redis
from projections.metrics.publish import (
    HIGHEST,
    LOWEST,
    SUM,
    DistributionHistogram,
    GaugeMode,
    Totals,
    publish_each_second,
    set_gauge,
    try_publish,
)
from projections.metrics.state_metrics import publish_problems, publish_state
from projections.state.state import State

WEB: Final = new_registry()


def _histogram(name: str, words: str, bounds: Sequence[float], *labels: str) -> DistributionHistogram:
    return DistributionHistogram(f"follows_{name}", words, labels, buckets=bounds, registry=WEB)


def _counter(name: str, words: str, *labels: str) -> Counter:
    return Counter(f"follows_{name}_total", words, labels, registry=WEB)


def _gauge(name: str, words: str, mode: GaugeMode, *labels: str) -> Gauge:
    return Gauge(f"follows_{name}", words, labels, multiprocess_mode=mode, registry=WEB)


REQUESTS: Final = _histogram(
    "request_duration_seconds",
    "Time from a request's head to its answer. 304 and the 200 of JSON-P count as the status that they are made from.",
    SECONDS_BOUNDS,
    *("dialect", "operation", "status"),
)
UNAVAILABLE: Final = _counter("unavailable", "Answers with 503, by their reason.", "dialect", "reason")
COMMIT_COMMANDS: Final = _histogram("commit_batch_commands", "Commands that were decided at once.", BATCH_BOUNDS)
COMMIT_SECONDS: Final = _histogram("commit_duration_seconds", "Time to decide and append a batch.", SECONDS_BOUNDS)
VISIBLE_WAITS: Final = _histogram(
    "visible_wait_seconds", "Time that the answer to a command has waited for the views.", SECONDS_BOUNDS, "outcome"
)
CACHE_HITS: Final = _counter("cache_hits", "Look-ups that a cache has answered.", "cache")
CACHE_MISSES: Final = _counter("cache_misses", "Look-ups that a cache could not answer.", "cache")
CACHE_DROPPED: Final = _counter("cache_dropped", "Entries that were dropped for room.", "cache")
CACHE_BYTES: Final = _gauge("cache_bytes", "Memory that a cache takes, about.", SUM, "cache")
CACHE_BYTES_MAX: Final = _gauge("cache_max_bytes", "Memory that a cache may take.", SUM, "cache")
KEYS: Final = _gauge("keys", "Keys that tokens are checked with.", LOWEST)
KEYS_AGE: Final = _gauge("keys_age_seconds", "Time since the source of the keys was read; 0 before.", HIGHEST)
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


class WebMetrics:
    """Publishes what one web process has counted."""

    def __init__(self, services: Services) -> None:
        self._services, self._totals = services, Totals()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Publish each second, in the running event loop, and the state whenever it is read.

        A state that is published again would take the place of another process' newer one.
        """
        watch = self._services.state
        watch.on_reading = _publish_reading
        if watch.state is not None:
            _publish_reading(watch.state)
        self._task = asyncio.create_task(publish_each_second(self.publish))

    async def close(self) -> None:
        """Publish for the last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def publish(self) -> None:
        """Publish all that was counted since the last call, and the problems."""
        services = self._services
        self._publish_requests()
        COMMIT_COMMANDS.add(services.committer.batches.sizes)
        COMMIT_SECONDS.add(services.committer.batches.durations)
        publish_redis(self._totals, services.redis)
        self._publish_caches()
        found, facts = problems(services), services.verifier.keys.facts
        publish_ready(process_is_ready(services, found))
        set_gauge(KEYS, facts.count)
        set_gauge(KEYS_AGE, 0 if facts.read_at is None else time.monotonic() - facts.read_at)
        publish_problems(found)

    def _publish_requests(self) -> None:
        for (dialect, operation, status), found in list(request_counts.DURATIONS.items()):
            REQUESTS.labels(dialect, operation, str(status)).add(found)
        for outcome, found in list(request_counts.WAITS.items()):
            VISIBLE_WAITS.labels(outcome).add(found)
        for (dialect, error), count in list(request_counts.ANSWERS_503.items()):
            self._totals.add(UNAVAILABLE, count, dialect, _WORD.sub("_", error).lower())

    def _publish_caches(self) -> None:
        for name, cache in caches(self._services).items():
            self._totals.add(CACHE_HITS, cache.hits, name)
            self._totals.add(CACHE_MISSES, cache.misses, name)
            self._totals.add(CACHE_DROPPED, cache.dropped, name)
            set_gauge(CACHE_BYTES, cache.bytes, name)
            set_gauge(CACHE_BYTES_MAX, cache.bytes_max, name)


def _publish_reading(state: State) -> None:
    try_publish(partial(publish_state, state))


def caches(services: Services) -> dict[CacheName, BoundedCache[Any, Any]]:
    """Return the caches by their names."""
    reader = services.reader
    return {
        "pages": reader.copies.kept,
        "profiles": reader.profile_cache.profiles,
        "ids": reader.numbers_by_id,
        "logins": reader.numbers_by_login,
        "directory": services.directory.numbers,
        "tokens": services.verifier.verified,
        "sorted lists": reader.long_lists.kept,
    }
