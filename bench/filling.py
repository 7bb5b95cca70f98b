"""Fills a new generation of views from the log, as a rebuild does, and removes it: ``python -m bench.filling``.

Timed: from the empty generation to the log's end. Not timed: starting Python, the comparison with the log, the switch.
"""

import asyncio
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from bench import cpu
from commands import log
from commands.generations import mark
from commands.postgres import PostgresSettings, create_engine
from projections import generations
from projections.building import BuildLease, Progress, fill, start_or_resume
from projections.catch_up import Projector
from projections.keys import LANES
from projections.store import Store, StoreSettings, open_store


class Filled(msgspec.Struct):
    """What a fill took: ``cpu_s`` of this process, ``views_cpu_s`` of Valkey; ``peak`` and ``before`` are bytes."""

    events: int
    seconds: float
    cpu_s: float
    views_cpu_s: float
    before: int
    peak: int


async def main() -> Filled:
    """One fill."""
    engine, store = create_engine(PostgresSettings.from_env()), open_store(StoreSettings.from_env())
    try:
        async with BuildLease(engine) as lease:
            epoch = (await log.head(engine)).epoch
            view = await start_or_resume(engine, store, LANES, lease.fence, epoch, "measured")
            projector = Projector(engine, store, view, dict.fromkeys(range(view.lanes), lease.fence), epoch)
            await projector.load()
            events = 0

            async def between(progress: Progress) -> None:
                nonlocal events
                events = progress.events
                await asyncio.sleep(0)

            before, views_began = cpu.resident(_pid()), await _views_cpu(store)
            began, cpu_began = time.perf_counter(), time.process_time()
            await fill(engine, store, projector, between)
            took, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
            views_s = await _views_cpu(store) - views_began
            await generations.drop(store, view)
            await mark(engine, view.generation, "dropped")
            return Filled(events, took, cpu_s, views_s, before, cpu.peak(_pid()))
    finally:
        await store.close()
        await engine.dispose()


async def _views_cpu(store: Store) -> float:
    """CPU seconds of the views' server so far."""
    told = await store.client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def _pid() -> int:
    return int(Path("/proc/self").readlink().name)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(main())))
