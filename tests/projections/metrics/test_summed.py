"""The sum over web processes never goes back when one of them is killed, and has gauges of living ones alone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.dev.processes import ROOT
from projections.metrics.folder import FOLDER_VARIABLE
from projections.metrics.server import HANGS_AFTER_S, ProcessHealth
from projections.metrics.summed import SummedMetrics
from tests.support.clock import Clock

# A process with the metrics of web, which adds 1 to a counter and to a histogram for each line that it reads.
PROGRAM = """
import sys
from api.metrics import CACHE_BYTES, COMMIT_SECONDS, UNAVAILABLE
from commands.distribution import Distribution
from projections.metrics.process_metrics import publish_ready
from projections.metrics.state_metrics import LOG_POSITION, PROBLEM
for line in sys.stdin:
    counted = Distribution()
    counted.note(0.002)
    COMMIT_SECONDS.add(counted)
    UNAVAILABLE.labels("v1", "view_behind").inc()
    CACHE_BYTES.labels("pages").set(10)
    LOG_POSITION.set(float(line))
    publish_ready(float(line) < 7)
    PROBLEM.labels("no_key").set(float(line) >= 7)
    PROBLEM.labels("parked").set(1)
    PROBLEM.labels("paused").set(0)
    print("done", flush=True)
"""


class Counting:
    """A running process with metrics."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={**os.environ, FOLDER_VARIABLE: str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def count(self, position: int) -> None:
        """Let it count once; returns when it has."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"%d\n" % position)
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"done\n"

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What ends the processes of a test."""
    with ExitStack() as stack:
        yield stack


def counting(stack: ExitStack, folder: Path) -> Counting:
    """Start a process."""
    started = Counting(folder)
    stack.callback(started.kill)
    return started


def values(summed: SummedMetrics) -> dict[str, float]:
    """Return the value of each sample without labels other than one, by its name."""
    return {
        sample.name: sample.value
        for metric in summed.collect()
        for sample in metric.samples
        if sample.labels.get("le", "+Inf") == "+Inf"
        and "code" not in sample.labels
        and sample.name != "follows_process_published_seconds"
    }


def test_sum_stays_when_a_process_is_killed(tmp_path: Path, stack: ExitStack) -> None:
    summed = SummedMetrics(tmp_path)
    first, second = counting(stack, tmp_path), counting(stack, tmp_path)
    for position in (1, 2, 3):
        first.count(position)
    second.count(4)
    both = values(summed)
    assert both["follows_unavailable_total"] == both["follows_commit_duration_seconds_count"] == 4
    assert (both["follows_cache_bytes"], both["follows_log_position"]) == (20, 4)
    first.kill()
    left = values(summed)
    assert left["follows_unavailable_total"] == left["follows_commit_duration_seconds_bucket"] == 4
    assert (left["follows_cache_bytes"], left["follows_log_position"]) == (10, 4)
    counting(stack, tmp_path).count(5)
    after = values(summed)
    assert (after["follows_unavailable_total"], after["follows_log_position"]) == (5, 5)


def test_health_is_that_of_the_living(tmp_path: Path, stack: ExitStack) -> None:
    """Ready when one of them is; with the problems of all."""
    summed = SummedMetrics(tmp_path)
    assert summed.health() == ProcessHealth(ready=False, degraded=["starting"])
    ready, other = counting(stack, tmp_path), counting(stack, tmp_path)
    ready.count(1)
    other.count(7)
    assert summed.health() == ProcessHealth(ready=True, degraded=["no_key", "parked"])
    ready.kill()
    assert summed.health() == ProcessHealth(ready=False, degraded=["no_key", "parked"])
    other.kill()
    assert summed.health() == ProcessHealth(ready=False, degraded=["starting"])


def test_none_is_ready_when_all_are_dead(tmp_path: Path, stack: ExitStack) -> None:
    """Processes that hang at their start are an outage, while their parent answers: an alert needs the 0."""
    summed = SummedMetrics(tmp_path)
    assert values(summed) == {"follows_process_ready": 0}
    only = counting(stack, tmp_path)
    only.count(1)
    assert values(summed)["follows_process_ready"] == 1
    only.kill()
    assert values(summed)["follows_process_ready"] == 0


def test_process_that_hangs_is_not_ready_and_has_no_gauges(tmp_path: Path, stack: ExitStack) -> None:
    """Its counts stay in the sum. Its gauges return when it publishes again."""
    clock = Clock(time.monotonic())
    summed = SummedMetrics(tmp_path, clock)
    hung, running = counting(stack, tmp_path), counting(stack, tmp_path)
    hung.count(7)
    clock.time = time.monotonic() + HANGS_AFTER_S
    running.count(1)
    assert summed.health() == ProcessHealth(ready=True, degraded=["hangs", "parked"])
    found = values(summed)
    assert (found["follows_process_ready"], found["follows_unavailable_total"]) == (1, 2)
    assert (found["follows_cache_bytes"], found["follows_log_position"]) == (10, 1)
    clock.time += HANGS_AFTER_S
    assert summed.health() == ProcessHealth(ready=False, degraded=["hangs"], alive=False)
    assert values(summed)["follows_process_ready"] == 0
    hung.count(2)
    clock.time = time.monotonic()
    assert summed.health().ready and summed.health().alive


def test_requests_at_once_after_deaths_are_answered(tmp_path: Path) -> None:
    """Each of them finds files of ended processes, and deletes them."""
    summed, no_pid = SummedMetrics(tmp_path), 2**31 - 1
    for number in range(100):
        for mode in ("livesum", "livemin", "livemax", "livemostrecent"):
            (tmp_path / f"gauge_{mode}_{no_pid - number}.db").touch()
    with ThreadPoolExecutor(8) as pool:
        for health in pool.map(lambda _: summed.health(), range(8)):
            assert health.degraded == ["starting"]
    assert not list(tmp_path.iterdir())


def test_empty_file_of_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").touch()
    assert values(SummedMetrics(tmp_path)) == {"follows_process_ready": 0}
