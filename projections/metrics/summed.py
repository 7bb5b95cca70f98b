"""The metrics of all web processes of one parent as one sum.

The library writes them into files that are mapped into memory. A killed process loses at most its last second, and what
it had counted before stays in the sum. Gauges of a process that hangs are left out until it publishes again.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from projections.metrics.server import HANGS_AFTER_S, MetricsServer, ProcessHealth, serving_metrics

# This module must not import these metrics: the parent would have files of its own.
_READY: Final = "follows_process_ready"
_PUBLISHED: Final = "follows_process_published_seconds"
_OF_LIVING: Final = re.compile(r"gauge_live[a-z]*_([0-9]+)\.db")


class SummedMetrics(Collector):
    """Counters and histograms of all processes, also of ended ones; gauges of those that live and publish."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is the one that processes publish by; the monotonic clock is the same in all of a host."""
        self._folder, self._clock = folder, clock
        # Each request has a thread, and two must not delete the same files.
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics.

        ``follows_process_ready`` is 0 while no living process has published it: no alert fires on a missing value.
        """
        metrics, _ = self._published()
        yield from metrics
        if all(metric.name != _READY for metric in metrics):
            yield GaugeMetricFamily(_READY, "1 while one of the processes does its work.", value=0)

    def _published(self) -> tuple[list[Metric], bool]:
        """Return the metrics, and whether one of the living processes hangs."""
        with self._lock:
            of_living = self._files_of_living()
            hanging = {pid for pid, files in of_living.items() if self._hangs(files)}
            left_out = {file for pid in hanging for file in of_living[pid]}
            return _merged(set(self._folder.glob("*.db")) - left_out), bool(hanging)

    def _files_of_living(self) -> dict[int, list[Path]]:
        """Return the files with gauges of each living process; delete those of the others."""
        of_living: dict[int, list[Path]] = {}
        for file in self._folder.glob("gauge_live*.db"):
            if found := _OF_LIVING.fullmatch(file.name):
                of_living.setdefault(int(found[1]), []).append(file)
        for pid in [pid for pid in of_living if not _is_alive(pid)]:
            mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]
            del of_living[pid]
        return of_living

    def _hangs(self, files: Iterable[Path]) -> bool:
        """Return whether the process with these files has published, and not for long now."""
        samples = (sample for metric in _merged(files) for sample in metric.samples)
        published_at = max((sample.value for sample in samples if sample.name == _PUBLISHED), default=0)
        return 0 < published_at <= self._clock() - HANGS_AFTER_S

    def health(self) -> ProcessHealth:
        """Return the health that the processes have published: ready when one of them is, alive unless all hang."""
        metrics, one_hangs = self._published()
        values = {
            (sample.name, sample.labels.get("code", "")): sample.value
            for metric in metrics
            for sample in metric.samples
        }
        ready = values.get((_READY, ""))
        if ready is None:
            return ProcessHealth(ready=False, degraded=["hangs" if one_hangs else "starting"], alive=not one_hangs)
        codes = [code for (name, code), value in values.items() if name == "follows_problem" and value]
        return ProcessHealth(ready=bool(ready), degraded=sorted([*codes, *(["hangs"] if one_hangs else [])]))


@contextmanager
def serving_sum(address: str, folder: Path) -> Iterator[MetricsServer]:
    """Serve the metrics in ``folder`` at ``address`` while the block runs. Raises SettingsError."""
    summed, registry = SummedMetrics(folder), CollectorRegistry()
    registry.register(summed)
    with serving_metrics(address, registry, summed.health) as server:
        assert server is not None
        yield server


def _merged(files: Iterable[Path]) -> list[Metric]:
    # A process that was killed at its start may have left an empty file.
    filled = [str(file) for file in files if file.stat().st_size]
    return list(MultiProcessCollector.merge(filled))  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # the number is free, or another user's process has it
        return False
    return True
