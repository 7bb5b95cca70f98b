"""The metrics of all web processes of one parent as one sum.

The library writes them into files that are mapped into memory. A killed process loses at most its last second, and what
it had counted before stays in the sum.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from projections.metrics.server import MetricsServer, ProcessHealth, serving_metrics

_READY: Final = "follows_process_ready"
_OF_LIVING: Final = re.compile(r"gauge_live[a-z]*_([0-9]+)\.db")


class SummedMetrics(Collector):
    """Counters and histograms of all processes, also of those that have ended; gauges of the living ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return the metrics.

        ``follows_process_ready`` is 0 while no living process has published it: no alert fires on a missing value.
        """
        metrics = self._published()
        yield from metrics
        if all(metric.name != _READY for metric in metrics):
            yield GaugeMetricFamily(_READY, "1 while one of the processes does its work.", value=0)

    def _published(self) -> list[Metric]:
        for file in self._folder.glob("gauge_live*.db"):
            found = _OF_LIVING.fullmatch(file.name)
            if found and not _is_alive(int(found[1])):
                mark_process_dead(int(found[1]), str(self._folder))  # type: ignore[no-untyped-call]
        # A process that was killed at its start may have left an empty file.
        files = [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]
        return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]

    def health(self) -> ProcessHealth:
        """Return the health that the processes have published: ready when one of them is."""
        values = {
            (sample.name, sample.labels.get("code", "")): sample.value
            for metric in self._published()
            for sample in metric.samples
        }
        ready = values.get((_READY, ""))
        if ready is None:
            return ProcessHealth(ready=False, degraded=["starting"])
        codes = [code for (name, code), value in values.items() if name == "follows_problem" and value]
        return ProcessHealth(ready=bool(ready), degraded=sorted(codes))


@contextmanager
def serving_sum(address: str, folder: Path) -> Iterator[MetricsServer]:
    """Serve the metrics in ``folder`` at ``address`` while the block runs. Raises SettingsError."""
    summed, registry = SummedMetrics(folder), CollectorRegistry()
    registry.register(summed)
    with serving_metrics(address, registry, summed.health) as server:
        assert server is not None
        yield server


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # the number is free, or another user's process has it
        return False
    return True
