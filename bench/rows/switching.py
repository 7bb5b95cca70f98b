"""What readers feel of a rebuild's switch: latency of follow-status around it.

A client asks 200 times a second on one connection, from before `follows rebuild --no-verify` until after it. The last
part of a fill and the switch come at its end; requests of the second around the moment when the pointer moved are
compared with those of a second before, while the rebuild fills, and of one with no rebuild. p99 of each; every answer
of the whole time must be 200. One rebuild only, since it takes long.
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
from bench.stage import ROOT, Stage

EVERY_S: Final = 0.005
AROUND_S: Final = 0.5
LIMIT_S: Final = 300


class Asking(threading.Thread):
    """Asks one question after the other at fixed times and remembers (when, seconds it took, status)."""

    def __init__(self, url: str, path: str, token: str) -> None:
        super().__init__(daemon=True)
        self._url, self._path, self._headers = url, path, {"Authorization": f"Bearer {token}"}
        self.seen: list[tuple[float, float, int]] = []
        self.done = threading.Event()

    def run(self) -> None:
        """Until ``done``."""
        with httpx.Client(base_url=self._url, headers=self._headers, trust_env=False, timeout=30) as client:
            due = time.monotonic()
            while not self.done.is_set():
                due += EVERY_S
                time.sleep(max(0.0, due - time.monotonic()))
                began = time.monotonic()
                answer = client.get(self._path)
                self.seen.append((began, time.monotonic() - began, answer.status_code))
                due = max(due, began)


def run(stage: Stage) -> Iterator[Result]:
    """Around the switch against shortly before it, and against no rebuild at all."""
    side = status.side(stage)
    request = side.requests.items[0]
    asking = Asking(side.server.url, request.path, side.requests.tokens[request.token])
    asking.start()
    time.sleep(4 * AROUND_S)
    quiet, began = time.monotonic() - AROUND_S, time.monotonic()
    moved, ended = _rebuild(stage)
    time.sleep(2 * AROUND_S)
    asking.done.set()
    asking.join()
    bad = sum(code != 200 for _, _, code in asking.seen)
    invalid = f"{bad} answers were errors" if bad else ""
    notes = {"answers": len(asking.seen), "switched after s": moved - began, "old views removed after s": ended - began}
    what, at_switch = "follow-status around a switch: p99", [_p99_ms(asking, moved)]
    filling = [_p99_ms(asking, moved - 4 * AROUND_S)]
    yield Result("switch", what, "while it fills", "ms", at_switch, filling, None, invalid, notes)
    yield Result("switch", what, "no rebuild", "ms", at_switch, [_p99_ms(asking, quiet)], None, invalid, notes)


def _rebuild(stage: Stage) -> tuple[float, float]:
    """When the pointer moved, and when the command ended."""
    with stage.redis() as client:
        before = live_view(client)
        command = [sys.executable, "-m", "cli", "rebuild", "--no-verify", "--json"]
        with (stage.folder / "rebuild.log").open("wb") as log:
            child = subprocess.Popen(command, cwd=ROOT, env=stage.environment, stdout=log, stderr=log)
        end = time.monotonic() + LIMIT_S
        while live_view(client) == before and child.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        moved = time.monotonic()
        if child.wait(LIMIT_S):
            raise RuntimeError((stage.folder / "rebuild.log").read_text())
    return moved, time.monotonic()


def _p99_ms(asking: Asking, at: float) -> float:
    times = sorted(took * 1000 for began, took, _ in asking.seen if abs(began - at) <= AROUND_S)
    return percentile(times, 0.99)
