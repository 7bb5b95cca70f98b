"""Counts of measured values, cheap enough for each request; projections/metrics shows them to Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Final

# Seconds. A read takes less than the first, and a call that waits for a server ends before the last.
SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Commands in a batch.
BATCH_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Distribution:
    """How many values were noted up to each of ``bounds``, in rising order, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS_BOUNDS) -> None:
        self.bounds = bounds
        # One more than the bounds: the last is of values beyond them.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def take(self) -> tuple[list[int], float]:
        """Return counts and sum, and begin again at zero."""
        taken = self.counts, self.sum
        self.counts, self.sum = [0] * len(taken[0]), 0.0
        return taken


class BatchDistributions:
    """Sizes and durations (s) of batches."""

    def __init__(self) -> None:
        self.sizes, self.durations = Distribution(BATCH_BOUNDS), Distribution()

    @contextmanager
    def noting(self, size: int) -> Iterator[None]:
        """Count a batch of ``size``, and how long the block takes."""
        began = perf_counter()
        try:
            yield
        finally:
            self.sizes.note(size)
            self.durations.note(perf_counter() - began)
