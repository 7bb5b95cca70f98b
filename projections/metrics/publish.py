"""Copies what the parts of a process have counted into its metrics, once a second.

No part of the product counts in a metric itself: an addition to a plain number costs a twentieth, and needs no library.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram

from commands.distribution import Distribution

logger: Final = logging.getLogger(__name__)

PUBLISH_INTERVAL_S: Final = 1.0
# How several web processes share a gauge: the sum, the lowest or the highest of those that live, or the latest of all.
GaugeMode = Literal["livesum", "livemin", "livemax", "livemostrecent"]
SUM: Final[GaugeMode] = "livesum"
LOWEST: Final[GaugeMode] = "livemin"
HIGHEST: Final[GaugeMode] = "livemax"
LATEST: Final[GaugeMode] = "livemostrecent"


class DistributionHistogram(Histogram):
    """A histogram that takes the values of a ``Distribution`` at once; ``observe`` takes 2 us for each."""

    def add(self, found: Distribution) -> None:
        """Add what was noted since the last call. The bounds must be those of this histogram."""
        counts, total = found.take()
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        if any(counts):
            self._sum.inc(total)


class Totals:
    """Brings counters to what parts of the process have counted since their start."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, ...], float] = {}

    def add(self, counter: Counter, total: float, *labels: str) -> None:
        """Add what ``total`` has grown by; a part that was replaced counts from zero again."""
        key = (str(counter), *labels)
        before = self._before.get(key, 0)
        self._before[key] = total
        (counter.labels(*labels) if labels else counter).inc(total - before if total >= before else total)


def set_gauge(gauge: Gauge, value: float | None, *labels: str) -> None:
    """Set a gauge; None, for what is not known, is NaN."""
    (gauge.labels(*labels) if labels else gauge).set(math.nan if value is None else value)


async def publish_each_second(publish: Callable[[], None]) -> None:
    """Call ``publish`` now and each second until cancelled, and once more then."""
    try:
        while True:
            try_publish(publish)
            await asyncio.sleep(PUBLISH_INTERVAL_S)
    finally:
        try_publish(publish)


def try_publish(publish: Callable[[], None]) -> None:
    """Call ``publish``, and log what it raises."""
    try:
        publish()
    except Exception:  # no caller waits for this
        logger.exception("the metrics could not be published; the next second tries again")
