"""A load generator in a process of its own: ``python -m bench.generator SPEC``; prints one line of JSON.

A closed run sends the next request of a connection when its answer is there. An open run sends requests at fixed times
and counts latency from the time a request was due, so that a stall of the server is not hidden. Answers are counted by
status. The HTTP here is enough for the servers of this benchmark: each answer has a Content-Length or no body.
"""

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from bench.requests import read

END = b"\r\n\r\n"
LENGTH = b"content-length: "


class Spec(msgspec.Struct, frozen=True):
    """One run. ``rate`` is requests/s of an open run, None for a closed one; ``requests`` and ``tokens`` are files."""

    port: int
    connections: int
    seconds: float
    requests: str
    tokens: str
    rate: float | None = None
    host: str = "127.0.0.1"


class Outcome(msgspec.Struct):
    """``latencies_ms`` by kind, sorted; answers by status; ``broken`` counts lost connections and late requests."""

    requests: int
    seconds: float
    bytes: int
    statuses: dict[int, int]
    broken: int
    issued: int
    latencies_ms: dict[str, list[float]]


class Run:
    """What the connections of a run share: the requests to send, and the results so far."""

    def __init__(self, spec: Spec) -> None:
        self.requests = read(Path(spec.requests), Path(spec.tokens), f"{spec.host}:{spec.port}")
        self.issued = self.bytes = self.broken = 0
        self.statuses: Counter[int] = Counter()
        self.latencies: dict[str, list[float]] = {kind: [] for kind, _ in self.requests}
        self.due: deque[float] = deque()
        self.idle: deque[Connection] = deque()
        self.rate = spec.rate
        self.stopped = False

    def next(self) -> tuple[str, bytes]:
        """Return the next request; the first one follows the last."""
        found = self.requests[self.issued % len(self.requests)]
        self.issued += 1
        return found

    def free(self, connection: "Connection") -> None:
        """Let a connection send the next request that is due, or wait for one."""
        if self.stopped:
            return
        if self.rate is None:
            connection.send(time.perf_counter())
        elif self.due:
            connection.send(self.due.popleft())
        else:
            self.idle.append(connection)

    def end(self, took: float, connections: "Sequence[Connection]") -> Outcome:
        """Close the connections and return the outcome.

        In an open run, requests without an answer count as broken if they are more than those of one second.
        """
        self.stopped = True
        for connection in connections:
            connection.transport.close()
        waiting = len(self.due) + sum(connection.busy for connection in connections)
        late = waiting if self.rate is not None and waiting > self.rate else 0
        found = {kind: sorted(round(one * 1000, 4) for one in times) for kind, times in self.latencies.items()}
        done = sum(self.statuses.values())
        return Outcome(done, took, self.bytes, dict(self.statuses), self.broken + late, self.issued, found)


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, run: Run) -> None:
        self.run, self.buffer, self.missing = run, b"", 0
        self.kind, self.began = "", 0.0
        self.busy = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from asyncio's

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that the server closes before the end."""
        if not self.run.stopped:
            self.run.broken += 1

    def send(self, began: float) -> None:
        """Send the next request; its latency counts from ``began``."""
        self.kind, request = self.run.next()
        self.began, self.busy = began, True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read a part of an answer; at the answer's end the connection is free again."""
        run = self.run
        run.bytes += len(data)
        if self.missing:
            self.missing -= len(data)
        else:
            data = self.buffer + data
            head = data.find(END)
            if head < 0:
                self.buffer = data
                return
            self.buffer = b""
            run.statuses[int(data[9:12])] += 1
            at = data[:head].lower().find(LENGTH)
            end = data.find(b"\r", at)
            length = int(data[at + len(LENGTH) : end]) if at >= 0 else 0
            self.missing = head + 4 + length - len(data)
        if self.missing == 0:
            self.busy = False
            self.answered()
            run.latencies[self.kind].append(time.perf_counter() - self.began)
            run.free(self)

    def answered(self) -> None:
        """Do nothing; a subclass may look at the answer."""


async def main(spec: Spec) -> Outcome:
    """Run for the given time and return the outcome."""
    run = Run(spec)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(run), spec.host, spec.port))[1]
        for _ in range(spec.connections)
    ]
    began = time.perf_counter()
    for connection in connections:
        run.free(connection)
    if spec.rate is None:
        await asyncio.sleep(spec.seconds)
    else:
        await send_at_rate(run, began, spec.rate, spec.seconds)
    return run.end(time.perf_counter() - began, connections)


async def send_at_rate(run: Run, began: float, rate: float, seconds: float) -> None:
    """Send requests at a fixed rate; those without a free connection wait, and the wait counts as latency."""
    sent = 0
    while (elapsed := time.perf_counter() - began) < seconds:
        while sent < elapsed * rate:
            due = began + sent / rate
            sent += 1
            if run.idle:
                run.idle.popleft().send(due)
            else:
                run.due.append(due)
        await asyncio.sleep(min(0.001, max(0.0, began + sent / rate - time.perf_counter())))


if __name__ == "__main__":
    outcome = uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Spec)))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
