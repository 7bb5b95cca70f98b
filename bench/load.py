"""Runs the load generator (wrk where it is installed, else our own) against a port of this machine."""

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
# What a run may take beyond its own time: reading the requests, and the last answers.
SLACK_S: Final = 60


class Load(msgspec.Struct):
    """What came of a run; ``bad`` are answers outside of 2xx and 3xx and broken connections, together."""

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
    """Which generator closed runs use, with its version."""
    if WRK is None:
        return "bench.generator"
    said = subprocess.run([WRK, "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(said.split()[:2])


def closed(port: int, requests: Requests, seconds: float, connections: int, folder: Path, *, own: bool = False) -> Load:
    """Each of ``connections`` sends its next request when it has its answer; with our ``own`` generator if wanted."""
    files = requests.write(folder)
    if WRK is None or own:
        load = _summary(run_own(Spec(port, connections, seconds, *files), folder))
    else:
        load = _wrk(WRK, port, files, seconds, connections)
    requests.sent += load.issued
    if requests.once and requests.sent > len(requests.items):
        raise RuntimeError(f"{len(requests.items)} requests that cannot be repeated were too few")
    return load


def open_run(port: int, requests: Requests, seconds: float, connections: int, rate: float, folder: Path) -> Outcome:
    """Requests at fixed times, ``rate`` a second; the latencies are those of every request, by kind."""
    spec = Spec(port, connections, seconds, *requests.write(folder), rate=rate)
    outcome = run_own(spec, folder)
    requests.sent += outcome.issued
    return outcome


def run_own(spec: Spec, folder: Path) -> Outcome:
    """Our generator in a process of its own."""
    path = folder / "spec.json"
    path.write_bytes(msgspec.json.encode(spec))
    done = _run([sys.executable, "-m", "bench.generator", str(path)], spec.seconds)
    return msgspec.json.decode(done, type=Outcome)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the sorted ``values`` do not exceed; 0 when there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _wrk(wrk: str, port: int, files: tuple[str, str], seconds: float, connections: int) -> Load:
    whole = max(1, round(seconds))  # wrk knows whole seconds only
    url = f"http://127.0.0.1:{port}/"
    command = [wrk, "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s", "-s", str(SCRIPT), url, "--"]
    said = _run([*command, *files], seconds).decode()
    found = re.search(r"^RESULT (.*)$", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said nothing of its result: {said}")
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
