"""`follows verify` over the whole log, by a process of its own while nothing else goes on.

Timed: the CPU seconds of that process from its start to its end, of which Python's start and imports are half a second.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from bench.result import Aim, Result
from bench.testbed import ROOT, Testbed

VERIFY_TIMEOUT_S: Final = 300


class Spent(msgspec.Struct, frozen=True):
    """What one run of `follows` took, from the start of its process to its end, and what it printed."""

    seconds: float
    cpu_s: float
    output: bytes


def run(testbed: Testbed) -> Iterator[Result]:
    """Verify once in each round; the views must equal the log."""
    testbed.service()
    events = int(str(testbed.query("SELECT count(*) FROM events")[0][0]))
    rates, per_s, cpu_us = list[float](), list[float](), list[dict[str, float]]()
    for _ in range(testbed.settings.rounds):
        meter = testbed.meter()
        spent = run_command(testbed, VERIFY_TIMEOUT_S, "verify", "--json")
        rates.append(events / spent.cpu_s)
        per_s.append(events / msgspec.json.decode(spent.output)["seconds"])
        used = {"verify": spent.cpu_s, **meter.used()}
        cpu_us.append({name: round(one / events * 1e6, 2) for name, one in used.items()})
    details = {"events": events, "CPU us per event": cpu_us}
    aim = Aim("ours", ">=", 100_000)
    yield Result("verify", "verify", "", "events a CPU second", rates, [], aim, "", details)
    yield Result("verify", "verify", "", "events/s", per_s)


def run_command(testbed: Testbed, timeout_s: float, *arguments: str) -> Spent:
    """Run `follows` with these arguments; raises RuntimeError when it does not end with 0."""
    before, began = _children_s(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT, env=testbed.environment, capture_output=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr or done.stdout).decode()
        raise RuntimeError(f"follows {' '.join(arguments)} ended with {done.returncode}: {said}")
    return Spent(time.monotonic() - began, _children_s() - before, done.stdout)


def _children_s() -> float:
    """Return the CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
