"""Start, memory, more processes, and the cost of rate limits.

``start``: from the start of a web process until its first answer to a client that tries every few milliseconds.
``scale``: follow-status with two web processes and with one, by the same generator.
``limits``: follow-status with rate limits that are never reached, and without rate limits.
``generator``: our own load generator and wrk on the no-op route. It must be faster than what it measures.
"""

import time
from collections.abc import Iterator
from typing import Final

import httpx

from bench import cpu
from bench.comparison import Side, compare, results
from bench.load import closed, generator
from bench.result import Aim, Result
from bench.rows import floor, status
from bench.testbed import READY_TIMEOUT_S, Testbed

UNREACHED: Final = "100000000"
MEGABYTE: Final = 1e6
WEB_MEMORY_MB: Final = 130


def run_start(testbed: Testbed) -> Iterator[Result]:
    """Start a web process in each round, next to a running worker and complete views."""
    testbed.service()
    times = []
    for number in range(testbed.settings.rounds):
        began = time.perf_counter()
        server = testbed.web(f"web-start-{number}", "api.app:app", ready="/health/live")
        answer = httpx.get(f"{server.url}/kraken/users/u1", trust_env=False, timeout=READY_TIMEOUT_S)
        times.append(time.perf_counter() - began)
        testbed.stop(server.name)
        assert answer.status_code == 200, answer.text
    yield Result("start", "start to first answer, web", "", "s", times)
    names = [name for name in ("web", "worker", "postgres", "valkey") if name in testbed.pids]
    for name in names:
        aim = Aim("ours", "<=", WEB_MEMORY_MB) if name == "web" else None
        used = cpu.proportional(testbed.pids[name]) / MEGABYTE
        yield Result("start", f"memory (PSS), {name}", "", "MB", [used], [], aim)


def run_scale(testbed: Testbed) -> Iterator[Result]:
    """Compare two processes with one."""
    one = status.side(testbed)
    server = testbed.web("web-two", "api.app:app", ready="/health/reads", workers=2)
    two = Side(server, status.side(testbed).requests, one.check, ["web-two", "worker"])
    compare(testbed, two, one)
    testbed.stop("web-two")
    yield from results("scale", "follow-status, two web processes", "one", two, one)


def run_limits(testbed: Testbed) -> Iterator[Result]:
    """Compare with and without limits."""
    without = status.side(testbed)
    environment = {"FOLLOWS_RATE_LIMIT": UNREACHED}
    server = testbed.web("web-limited", "api.app:app", ready="/health/reads", environment=environment)
    limited = Side(server, status.side(testbed).requests, without.check, ["web-limited", "worker"])
    compare(testbed, limited, without)
    testbed.stop("web-limited")
    yield from results("limits", "follow-status with rate limits", "without", limited, without)


def run_generator(testbed: Testbed) -> Iterator[Result]:
    """Compare both on the no-op route; the product's rows use wrk if it is installed."""
    side = floor.reading(testbed, status.side(testbed).requests)
    own: list[float] = []
    other: list[float] = []
    bad = 0
    for _ in range(testbed.settings.rounds):
        for values, ours in ((own, True), (other, False)):
            settings = testbed.settings
            load = closed(
                side.server.port, side.requests, settings.seconds, settings.connections, testbed.folder, own=ours
            )
            values.append(load.per_s)
            bad += load.bad
    what, invalid = "our own load generator on the no-op route", f"{bad} errors" if bad else ""
    yield Result("generator", what, generator(), "requests/s", own, other, None, invalid)
