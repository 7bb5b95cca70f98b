"""Writes at a fixed rate and looks how soon each is in the views: ``python -m bench.visible SPEC``.

Requests leave at their times on kept connections. From the moment the last byte of a 201 has come, the sorted set of
the views is asked (one ZSCORE a round trip, over a Unix socket, without a pause) until it has the follow; what is there
at the first look counts with the time of that look. Every ``every``-th write is looked at, so that looking is no load.
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

from bench.generator import Connection, Outcome, Run, Spec, keep_time

GIVE_UP_S = 10.0


class Look(msgspec.Struct, frozen=True):
    """``keys`` and ``members`` of each request's follow, in the order of the requests."""

    spec: Spec
    views: str
    keys: list[str]
    members: list[str]
    every: int


class Seen(msgspec.Struct):
    """Sorted milliseconds from 201 to visible; ``at_once`` are those that were there at the first look."""

    outcome: Outcome
    visible_ms: list[float]
    at_once: int
    never: int


class Writer(Connection):
    """A connection that has its follows looked for."""

    looking: "Looking"
    number = 0

    def send(self, began: float) -> None:
        """Remembers which request this is."""
        self.number = self.run.issued
        super().send(began)

    def answered(self) -> None:
        """The 201 is here."""
        self.looking.look(self.number)


class Looking:
    """Asks the views for follows, each until it is there."""

    def __init__(self, look: Look) -> None:
        self._look, self._redis = look, Redis.from_url(look.views)
        self._tasks: set[asyncio.Task[None]] = set()
        self.times: list[float] = []
        self.at_once = self.never = 0

    def look(self, number: int) -> None:
        """Begins to look for one, if it is its turn."""
        if number % self._look.every == 0:
            task = asyncio.create_task(self._until_there(number, time.perf_counter()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Waits for those still looked for."""
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
            if time.perf_counter() - began > GIVE_UP_S:
                self.never += 1
                return
        self.at_once += looks == 1
        self.times.append((time.perf_counter() - began) * 1000)


async def main(look: Look) -> Seen:
    """Runs it."""
    assert look.spec.rate is not None
    run, looking = Run(look.spec), Looking(look)
    connections = []
    for _ in range(look.spec.connections):
        writer = Writer(run)
        writer.looking = looking
        await asyncio.get_running_loop().create_connection(partial(_same, writer), look.spec.host, look.spec.port)
        connections.append(writer)
        run.free(writer)
    began = time.perf_counter()
    await keep_time(run, began, look.spec.rate, look.spec.seconds)
    outcome = run.end(time.perf_counter() - began, connections)
    await looking.finish()
    return Seen(outcome, sorted(looking.times), looking.at_once, looking.never)


def _same(writer: Writer) -> Writer:
    return writer


if __name__ == "__main__":
    seen = uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Look)))
    sys.stdout.buffer.write(msgspec.json.encode(seen))
