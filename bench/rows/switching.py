"""The latency of follow-status around the switch of a rebuild.

A client sends 200 requests a second on one connection, from before `follows rebuild --no-verify` until after it. The
switch comes at the end of the rebuild. The p99 of the second around the change of the pointer is compared with that of
an earlier second of the same rebuild, and with that of a second without a rebuild. Every answer must be 200. There is
one rebuild only, since it takes long.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

import httpx

from bench.load import percentile
from bench.result import Result
from bench.rows import status
from bench.rows.deep import live_view
from bench.testbed import ROOT, Testbed

INTERVAL_S: Final = 0.005
AROUND_S: Final = 0.5
REBUILD_TIMEOUT_S: Final = 300


class Client(threading.Thread):
    """Sends the same request at fixed times; ``seen`` has (start, seconds it took, status) of each."""

    def __init__(self, url: str, path: str, token: str) -> None:
        super().__init__(daemon=True)
        self._url, self._path, self._headers = url, path, {"Authorization": f"Bearer {token}"}
        self.seen: list[tuple[float, float, int]] = []
        self.done = threading.Event()

    def run(self) -> None:
        """Send requests until ``done``."""
        with httpx.Client(base_url=self._url, headers=self._headers, trust_env=False, timeout=30) as client:
            due = time.monotonic()
            while not self.done.is_set():
                due += INTERVAL_S
                time.sleep(max(0.0, due - time.monotonic()))
                began = time.monotonic()
                answer = client.get(self._path)
                self.seen.append((began, time.monotonic() - began, answer.status_code))
                due = max(due, began)


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare the second around the switch with one before it, and with one without a rebuild."""
    side = status.side(testbed)
    request = side.requests.items[0]
    client = Client(side.server.url, request.path, side.requests.tokens[request.token])
    client.start()
    time.sleep(4 * AROUND_S)
    quiet, began = time.monotonic() - AROUND_S, time.monotonic()
    moved, ended = _rebuild(testbed)
    time.sleep(2 * AROUND_S)
    client.done.set()
    client.join()
    bad = sum(code != 200 for _, _, code in client.seen)
    invalid = f"{bad} answers were errors" if bad else ""
    notes = {"answers": len(client.seen), "switched after s": moved - began, "old views removed after s": ended - began}
    what, at_switch = "follow-status around a switch: p99", [_p99_ms(client, moved)]
    during_fill = [_p99_ms(client, moved - 4 * AROUND_S)]
    yield Result("switch", what, "while it fills", "ms", at_switch, during_fill, None, invalid, notes)
    yield Result("switch", what, "no rebuild", "ms", at_switch, [_p99_ms(client, quiet)], None, invalid, notes)


def _rebuild(testbed: Testbed) -> tuple[float, float]:
    """Run a rebuild; return when the pointer changed and when the command ended."""
    with testbed.redis() as client:
        before = live_view(client)
        command = [sys.executable, "-m", "cli", "rebuild", "--no-verify", "--json"]
        with (testbed.folder / "rebuild.log").open("wb") as log:
            child = subprocess.Popen(command, cwd=ROOT, env=testbed.environment, stdout=log, stderr=log)
        end = time.monotonic() + REBUILD_TIMEOUT_S
        while live_view(client) == before and child.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        moved = time.monotonic()
        if child.wait(REBUILD_TIMEOUT_S):
            raise RuntimeError((testbed.folder / "rebuild.log").read_text())
    return moved, time.monotonic()


def _p99_ms(client: Client, at: float) -> float:
    times = sorted(took * 1000 for began, took, _ in client.seen if abs(began - at) <= AROUND_S)
    return percentile(times, 0.99)
