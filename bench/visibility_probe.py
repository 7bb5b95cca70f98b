"""Writes at a fixed rate, and the time until each write is in the views: ``python -m bench.visibility_probe SPEC``.

Requests are sent at fixed times on open connections. After the last byte of a 201, the probe reads the views' sorted
set (one ZSCORE a round trip, over a Unix socket, without pauses) until it has the follow. A follow that is there at the
first read counts with the time of that read. Only every ``every``-th write is probed, to keep the load small.
"""

import asyncio
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from redis.asyncio import Redis

from bench.generator import Connection, Outcome, Run, Spec, send_at_rate

VISIBLE_TIMEOUT_S = 10.0


class ProbeSpec(msgspec.Struct, frozen=True):
    """One run: ``keys`` and ``members`` are of each request's follow, in the order of the requests."""

    spec: Spec
    views: str
    keys: list[str]
    members: list[str]
    every: int


class ProbeResult(msgspec.Struct):
    """Sorted milliseconds from 201 to visible. ``at_once`` counts follows that were there at the first read."""

    outcome: Outcome
    visible_ms: list[float]
    at_once: int
    never: int


class ProbedConnection(Connection):
    """A connection whose follows are probed."""

    probe: "Probe"
    number = 0

    def send(self, began: float) -> None:
        """Send the next request and keep its number."""
        self.number = self.run.issued
        super().send(began)

    def answered(self) -> None:
        """Start the probe for the answered request."""
        self.probe.look(self.number)


class Probe:
    """Reads the views until they have each follow."""

    def __init__(self, look: ProbeSpec) -> None:
        self._look, self._redis = look, Redis.from_url(look.views)
        self._tasks: set[asyncio.Task[None]] = set()
        self.times: list[float] = []
        self.at_once = self.never = 0

    def look(self, number: int) -> None:
        """Start to look for the follow of request ``number``, if it is to be probed."""
        if number % self._look.every == 0:
            task = asyncio.create_task(self._until_there(number, time.perf_counter()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait for the probes that still run."""
        await asyncio.gather(*self._tasks)
        await self._redis.aclose()

    async def _until_there(self, number: int, began: float) -> None:
        key, member = self._look.keys[number], self._look.members[number]
        looks = 0
        while True:
            found: Any = await self._redis.zscore(key, member)
            looks += 1
            if found is not None:
                break
            if time.perf_counter() - began > VISIBLE_TIMEOUT_S:
                self.never += 1
                return
        self.at_once += looks == 1
        self.times.append((time.perf_counter() - began) * 1000)


async def main(look: ProbeSpec) -> ProbeResult:
    """Run the writes with their probes."""
    assert look.spec.rate is not None
    run, probe = Run(look.spec), Probe(look)
    connections = []
    for _ in range(look.spec.connections):
        writer = ProbedConnection(run)
        writer.probe = probe
        await asyncio.get_running_loop().create_connection(partial(_same, writer), look.spec.host, look.spec.port)
        connections.append(writer)
        run.free(writer)
    began = time.perf_counter()
    await send_at_rate(run, began, look.spec.rate, look.spec.seconds)
    outcome = run.end(time.perf_counter() - began, connections)
    await probe.finish()
    return ProbeResult(outcome, sorted(probe.times), probe.at_once, probe.never)


def _same(writer: ProbedConnection) -> ProbedConnection:
    return writer


if __name__ == "__main__":
    seen = uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ProbeSpec)))
    sys.stdout.buffer.write(msgspec.json.encode(seen))
