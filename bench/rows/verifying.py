"""`follows verify` over the whole log, by a process of its own while nothing else goes on.

Timed: the CPU seconds of that process from its start to its end, of which Python's start and imports are half a second.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from bench.result import Aim, Result
from bench.testbed import ROOT, Testbed

VERIFY_TIMEOUT_S: Final = 300


def run(testbed: Testbed) -> Iterator[Result]:
    """Verify once in each round; the views must equal the log."""
    testbed.service()
    events = int(str(testbed.query("SELECT count(*) FROM events")[0][0]))
    rates, per_s, cpu_us = list[float](), list[float](), list[dict[str, float]]()
    for _ in range(testbed.settings.rounds):
        meter, before = testbed.meter(), _children_s()
        done = subprocess.run(
            [sys.executable, "-m", "cli", "verify", "--json"],
            cwd=ROOT, env=testbed.environment, capture_output=True, timeout=VERIFY_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"verify ended with {done.returncode}: {(done.stderr or done.stdout).decode()}")
        spent = _children_s() - before
        rates.append(events / spent)
        per_s.append(events / msgspec.json.decode(done.stdout)["seconds"])
        used = {"verify": spent, **meter.used()}
        cpu_us.append({name: round(one / events * 1e6, 2) for name, one in used.items()})
    details = {"events": events, "CPU us per event": cpu_us}
    aim = Aim("ours", ">=", 100_000)
    yield Result("verify", "verify", "", "events a CPU second", rates, [], aim, "", details)
    yield Result("verify", "verify", "", "events/s", per_s)


def _children_s() -> float:
    """Return the CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
