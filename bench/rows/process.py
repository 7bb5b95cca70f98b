"""What is not a rate of one process: start, memory, more processes, and what rate limits cost.

``start``: from launching the web process until its first answer to a client that tries every few milliseconds.
``scale``: follow-status with one web process of one worker and with one of two, the generator unchanged.
``limits``: follow-status with rate limits switched on (and so high that none is reached) against without.
``generator``: our own load generator against wrk, on the no-op route: it must not be what is measured.
"""

import time
from collections.abc import Iterator
from typing import Final

import httpx

from bench import cpu
from bench.load import closed, generator
from bench.result import Result
from bench.rows import floor, status
from bench.stage import READY_S, Stage
from bench.turns import Side, details_of, take_turns

UNREACHED: Final = "100000000"
MEGABYTE: Final = 1e6


def run_start(stage: Stage) -> Iterator[Result]:
    """A web process started anew each turn, beside a worker and views that are there already."""
    stage.service()
    times = []
    for turn in range(stage.pace.turns):
        began = time.perf_counter()
        server = stage.web(f"web-start-{turn}", "api.app:app", ready="/health/live")
        answer = httpx.get(f"{server.url}/kraken/users/u1", trust_env=False, timeout=READY_S)
        times.append(time.perf_counter() - began)
        stage.stop(server.name)
        assert answer.status_code == 200, answer.text
    yield Result("start", "start to first answer, web", "", "s", times)
    names = [name for name in ("web", "worker", "postgres", "valkey") if name in stage.pids]
    for name in names:
        yield Result("start", f"resident memory, {name}", "", "MB", [cpu.resident(stage.pids[name]) / MEGABYTE])


def run_scale(stage: Stage) -> Iterator[Result]:
    """Two processes against one."""
    one = status.side(stage)
    server = stage.web("web-two", "api.app:app", ready="/health/ready", workers=2)
    two = Side(server, status.side(stage).requests, one.check, ["web-two", "worker"])
    take_turns(stage, two, one)
    stage.stop("web-two")
    yield _compared("scale", "follow-status, two web processes", "one", two, one)


def run_limits(stage: Stage) -> Iterator[Result]:
    """With limits against without."""
    without = status.side(stage)
    given = {"FOLLOWS_RATE_LIMIT": UNREACHED}
    server = stage.web("web-limited", "api.app:app", ready="/health/ready", environment=given)
    limited = Side(server, status.side(stage).requests, without.check, ["web-limited", "worker"])
    take_turns(stage, limited, without)
    stage.stop("web-limited")
    yield _compared("limits", "follow-status with rate limits", "without", limited, without)


def run_generator(stage: Stage) -> Iterator[Result]:
    """Both on the no-op route; the product's own rows use wrk where it is installed."""
    side = floor.reading(stage, status.side(stage).requests)
    own: list[float] = []
    other: list[float] = []
    bad = 0
    for _ in range(stage.pace.turns):
        for values, ours in ((own, True), (other, False)):
            pace = stage.pace
            load = closed(side.server.port, side.requests, pace.seconds, pace.connections, stage.folder, own=ours)
            values.append(load.per_s)
            bad += load.bad
    what, invalid = "our own load generator on the no-op route", f"{bad} errors" if bad else ""
    yield Result("generator", what, generator(), "requests/s", own, other, None, invalid)


def _compared(row: str, what: str, against: str, ours: Side, theirs: Side) -> Result:
    details = details_of(ours, theirs)
    invalid = ours.invalid or theirs.invalid
    return Result(row, what, against, "requests/s", ours.rates, theirs.rates, None, invalid, details)
