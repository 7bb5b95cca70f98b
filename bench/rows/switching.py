"""The latency of follow-status around the switch of a rebuild.

A client sends 200 requests a second on one connection, for all callers and users of the row ``status`` in turn, from
seconds before `follows rebuild --no-verify` until after it. Compared are the p99 of the second around the change of the
pointer, and that of the time before it, while the next views are filled, with the p99 of the time without a rebuild.
Every answer must be 200.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Final

import httpx

from bench.load import closed, percentile
from bench.requests import Requests
from bench.result import Aim, Result
from bench.rows import status
from bench.rows.deep import live_view
from bench.testbed import ROOT, Testbed

INTERVAL_S: Final = 0.005
AROUND_S: Final = 0.5
WITHOUT_S: Final = 5.0
REBUILD_TIMEOUT_S: Final = 300


class Client(threading.Thread):
    """Sends requests in turn at fixed times; ``seen`` has (start, seconds it took, status) of each."""

    def __init__(self, url: str, requests: Requests) -> None:
        super().__init__(daemon=True)
        self._url, self._items = url, cycle(requests.items)
        self._headers = [{"Authorization": f"Bearer {token}"} for token in requests.tokens]
        self.seen: list[tuple[float, float, int]] = []
        self.done = threading.Event()

    def run(self) -> None:
        """Send requests until ``done``."""
        with httpx.Client(base_url=self._url, trust_env=False, timeout=30) as client:
            due = time.monotonic()
            while not self.done.is_set():
                due += INTERVAL_S
                time.sleep(max(0.0, due - time.monotonic()))
                request, began = next(self._items), time.monotonic()
                answer = client.get(request.path, headers=self._headers[request.token])
                self.seen.append((began, time.monotonic() - began, answer.status_code))
                due = max(due, began)

    def p99_ms(self, since: float, until: float) -> float:
        """Return the 99th percentile of the requests that began in a time."""
        return percentile(sorted(took * 1000 for began, took, _ in self.seen if since <= began <= until), 0.99)


def run(testbed: Testbed) -> Iterator[Result]:
    """Compare both times of each rebuild with the time without one before it."""
    side = status.side(testbed)
    closed(side.server.port, side.requests, testbed.settings.warm_up_s, 1, testbed.folder)
    around, filling, without = list[float](), list[float](), list[float]()
    bad, notes = 0, list[dict[str, float]]()
    for _ in range(testbed.settings.rounds):
        client = Client(side.server.url, side.requests)
        client.start()
        time.sleep(WITHOUT_S)
        began = time.monotonic()
        moved, ended = _rebuild(testbed)
        time.sleep(2 * AROUND_S)
        client.done.set()
        client.join()
        bad += sum(code != 200 for _, _, code in client.seen)
        around.append(client.p99_ms(moved - AROUND_S, moved + AROUND_S))
        filling.append(client.p99_ms(began, moved - AROUND_S))
        without.append(client.p99_ms(0, began))
        notes.append({"switched after s": round(moved - began, 2), "ended after s": round(ended - began, 2)})
    invalid = f"{bad} answers were errors" if bad else ""
    for what, ours, aim in (("around a switch", around, 1.5), ("while a rebuild fills", filling, 4)):
        yield Result(
            "switch", f"follow-status {what}: p99", "no rebuild", "ms", ours, without, Aim("ratio", "<=", aim),
            invalid, {"rebuilds": notes},
        )  # fmt: skip


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
