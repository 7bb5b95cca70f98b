"""Runs of the load generator (wrk if it is installed, else our own) against a local port."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.generator import Outcome, Spec
from bench.requests import Requests

SCRIPT: Final = Path(__file__).with_name("wrk.lua")
ROOT: Final = Path(__file__).resolve().parents[1]
WRK: Final = shutil.which("wrk")
# A run may take this much longer than its own time: it reads the requests, and waits for the last answers.
SLACK_S: Final = 60


class Load(msgspec.Struct):
    """The result of a run. ``bad`` counts answers outside of 2xx and 3xx, and lost connections."""

    requests: int
    seconds: float
    bytes: int
    bad: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    issued: int

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


class _Wrk(msgspec.Struct):
    requests: int
    seconds: float
    bytes: int
    bad_status: int
    broken: int
    issued: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def generator() -> str:
    """Return the name and version of the generator of closed runs."""
    if WRK is None:
        return "bench.generator"
    output = subprocess.run([WRK, "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(output.split()[:2])


def closed(port: int, requests: Requests, seconds: float, connections: int, folder: Path, *, own: bool = False) -> Load:
    """Run with each connection sending its next request after its answer; ``own`` forces our own generator."""
    files = requests.write(folder)
    if WRK is None or own:
        load = _summary(run_own(Spec(port, connections, seconds, *files), folder))
    else:
        load = _wrk(WRK, port, files, seconds, connections)
    requests.sent += load.issued
    if requests.once and requests.sent > len(requests.items):
        raise RuntimeError(f"all {len(requests.items)} requests were sent, and they cannot be repeated: make more")
    return load


def open_run(port: int, requests: Requests, seconds: float, connections: int, rate: float, folder: Path) -> Outcome:
    """Run with ``rate`` requests a second at fixed times; return the latency of every request, by kind."""
    spec = Spec(port, connections, seconds, *requests.write(folder), rate=rate)
    outcome = run_own(spec, folder)
    requests.sent += outcome.issued
    return outcome


def run_own(spec: Spec, folder: Path) -> Outcome:
    """Run our own generator in a process of its own."""
    path = folder / "spec.json"
    path.write_bytes(msgspec.json.encode(spec))
    done = _run([sys.executable, "-m", "bench.generator", str(path)], spec.seconds)
    return msgspec.json.decode(done, type=Outcome)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of the sorted ``values`` do not exceed; 0 without values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _wrk(wrk: str, port: int, files: tuple[str, str], seconds: float, connections: int) -> Load:
    whole = max(1, round(seconds))  # wrk takes whole seconds only
    url = f"http://127.0.0.1:{port}/"
    command = [wrk, "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s", "-s", str(SCRIPT), url, "--"]
    output = _run([*command, *files], seconds).decode()
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk printed no result: {output}")
    run = msgspec.json.decode(found[1], type=_Wrk)
    return Load(
        run.requests, run.seconds, run.bytes, run.bad_status + run.broken,
        run.p50_ms, run.p95_ms, run.p99_ms, run.max_ms, run.issued,
    )  # fmt: skip


def _summary(outcome: Outcome) -> Load:
    times = sorted(time for kind in outcome.latencies_ms.values() for time in kind)
    good = sum(count for status, count in outcome.statuses.items() if 200 <= status < 400)
    bad = outcome.requests - good + outcome.broken
    p50, p95, p99 = (percentile(times, share) for share in (0.50, 0.95, 0.99))
    return Load(
        outcome.requests, outcome.seconds, outcome.bytes, bad, p50, p95, p99, times[-1] if times else 0.0,
        outcome.issued,
    )  # fmt: skip


def _run(command: list[str], seconds: float) -> bytes:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds + SLACK_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode()}")
    return done.stdout
