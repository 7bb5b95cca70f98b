"""Fills a new generation of views from the log, as a rebuild does, and deletes it: ``python -m bench.fill_view``.

Timed: from the empty generation to the end of the log. Not timed: the start of Python, the verification, the switch.
"""

import asyncio
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from bench import cpu
from commands.coordination.view_register import set_state
from commands.db.postgres import PostgresSettings, create_engine
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import PARTITIONS
from projections.projector.projector import Projector
from projections.rebuild.build import BuildLease, fill, start_or_resume
from projections.rebuild.pace import BuildProgress
from projections.views import generations


class FillResult(msgspec.Struct):
    """The cost of a fill: CPU of this process and of Valkey, bytes of this process before it and at its peak, and bytes
    that Valkey uses with the view in it."""

    events: int
    seconds: float
    cpu_s: float
    views_cpu_s: float
    before: int
    peak: int
    views_bytes: int


async def main() -> FillResult:
    """Fill one generation."""
    engine, redis = create_engine(PostgresSettings.from_env()), open_redis(RedisClientSettings.from_env())
    try:
        async with BuildLease(engine, redis) as lease:
            view = await start_or_resume(engine, redis, PARTITIONS, lease.fence, "measured")
            projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), lease.fence))
            await projector.load()
            events = 0

            async def between(progress: BuildProgress) -> None:
                nonlocal events
                events = progress.events
                await asyncio.sleep(0)

            before, views_began = cpu.proportional(_pid()), await _views_cpu(redis)
            began, cpu_began = time.perf_counter(), time.process_time()
            await fill(engine, redis, projector, between)
            took, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
            views_s = await _views_cpu(redis) - views_began
            views_bytes = int((await redis.client.info("memory"))["used_memory"])
            await generations.delete(redis, view)
            await set_state(engine, view.generation, "deleted")
            return FillResult(events, took, cpu_s, views_s, before, cpu.peak(_pid()), views_bytes)
    finally:
        await redis.close()
        await engine.dispose()


async def _views_cpu(redis: RedisClient) -> float:
    """Return the CPU seconds of the views' server so far."""
    info = await redis.client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _pid() -> int:
    return int(Path("/proc/self").readlink().name)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(main())))
