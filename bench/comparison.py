"""Comparison of two servers in alternation (ours, theirs, ours, theirs), so that a slower machine slows both."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import httpx
import msgspec

from bench.cpu import proportional
from bench.load import Load, closed
from bench.requests import Request, Requests
from bench.result import Aim, Result
from bench.testbed import Server, Testbed

CPU_UNIT = "requests a CPU second"

Check = Callable[[Request, httpx.Response], None]
SAMPLES = 25


class Side(msgspec.Struct):
    """One side of a comparison: requests to a server, and a check of its answers (raises AssertionError).

    CPU time is measured of ``processes``, the web process first, of PostgreSQL and of Valkey. ``fresh`` returns the
    requests of the next turn, where turns must not share them; each is warmed up then. ``answers`` and ``sent`` count
    those of all turns.
    """

    server: Server
    requests: Requests
    check: Check
    processes: Sequence[str]
    loads: list[Load] = []
    cpu_us: list[dict[str, float]] = []
    pss_mb: float = 0.0
    invalid: str = ""
    fresh: Callable[[], Requests] | None = None
    answers: int = 0
    sent: int = 0

    def per_cpu_second(self, name: str = "") -> list[float]:
        """Return the requests of each round for one CPU second of a process; that of the web process by default."""
        return [1e6 / one[name or self.processes[0]] for one in self.cpu_us]

    @property
    def rates(self) -> list[float]:
        """Answers a second in each round."""
        return [load.per_s for load in self.loads]

    def details(self) -> dict[str, Any]:
        """Return medians over the rounds: latency, bytes, CPU microseconds of each process per request."""
        names = self.cpu_us[0] if self.cpu_us else ()
        spent = {name: round(median(one[name] for one in self.cpu_us), 2) for name in names}
        return {
            "requests": sum(load.requests for load in self.loads),
            "p50_ms": median(load.p50_ms for load in self.loads),
            "p99_ms": median(load.p99_ms for load in self.loads),
            "bytes_per_s": median(load.bytes / load.seconds for load in self.loads),
            "web_pss_mb": self.pss_mb,
            "cpu_us_per_request": {**spent, "all": round(sum(spent.values()), 2)},
        }


def results(
    row: str,
    what: str,
    against: str,
    ours: Side,
    theirs: Side,
    cpu: Aim | None = None,
    rate: Aim | None = None,
    invalid: str = "",
) -> Iterator[Result]:
    """Yield two lines of a comparison: requests for a CPU second of the web process, and requests a second.

    The first is judged: the second depends on what else the machine does.
    """
    invalid = invalid or ours.invalid or theirs.invalid
    details = {"ours": ours.details(), "theirs": theirs.details()}
    yield Result(
        row, what, against, CPU_UNIT, ours.per_cpu_second(), theirs.per_cpu_second(), cpu, invalid, details
    )  # fmt: skip
    yield Result(row, what, against, "requests/s", ours.rates, theirs.rates, rate, invalid)


def compare(testbed: Testbed, *sides: Side) -> None:
    """Check, warm up and run each side in alternation; a fault is noted in its ``invalid``."""
    for side in sides:
        _check(side)
        _run(testbed, side, testbed.settings.warm_up_s)
        side.loads, side.cpu_us = [], []
    for _ in range(testbed.settings.rounds):
        for side in sides:
            if side.fresh is not None:
                side.requests = side.fresh()
                _send(testbed, side, testbed.settings.warm_up_s)
            _run(testbed, side, testbed.settings.seconds)
    for side in sides:
        side.pss_mb = round(proportional(side.server.child.pid) / 1e6, 1)
        _check(side)


def _run(testbed: Testbed, side: Side, seconds: float) -> None:
    meter = testbed.meter(*side.processes)
    load = _send(testbed, side, seconds)
    used = meter.used()
    side.loads.append(load)
    side.cpu_us.append({name: spent / max(load.requests, 1) * 1e6 for name, spent in used.items()})
    if load.bad or not load.requests:
        side.invalid = f"{load.bad} of {load.requests} answers of {side.server.name} were errors"


def _send(testbed: Testbed, side: Side, seconds: float) -> Load:
    before = side.requests.sent
    load = closed(side.server.port, side.requests, seconds, testbed.settings.connections, testbed.folder)
    side.sent += side.requests.sent - before
    side.answers += load.requests
    return load


def _check(side: Side) -> None:
    """Send some of the requests one by one and check each whole answer."""
    items, requests = side.requests.items, side.requests
    first = requests.sent if requests.once else 0
    chosen = items[first : first + SAMPLES] if requests.once else items[:: max(1, len(items) // SAMPLES)]
    requests.sent += len(chosen)
    side.sent += len(chosen)
    with httpx.Client(base_url=side.server.url, trust_env=False, timeout=30) as client:
        for item in chosen:
            headers = {"Authorization": f"Bearer {requests.tokens[item.token]}"} if item.token >= 0 else {}
            try:
                side.check(item, client.request(item.method, item.path, headers=headers))
            except (AssertionError, KeyError, ValueError) as error:
                side.invalid = f"{side.server.name} answered {item.path} wrongly: {error!r:.200}"
                return
