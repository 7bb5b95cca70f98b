"""What an arq worker of ours is made of: its jobs, its cron, its serialisers, its start and end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import msgspec
from arq import cron, func
from arq.worker import Worker

from commands.errors import LogUnavailable
from commands.migrate import check_current
from commands.postgres import PostgresSettings, check_durability, create_engine
from projections.drain import Drain
from projections.keys import QUEUE, REBUILD_QUEUE
from projections.store import StoreSettings, check_store, open_store
from projections.wakeup import QueueSettings, Wakeup, encode_job, redis_settings
from workers.jobs import DRAIN_S, ERASE_S, Turn, drain, erase, keep_awake, keep_whole, quietly, sweep
from workers.rebuilds import REBUILD_S, Forlorn, find_killed, rebuild

# The drain, its successor waiting for it, sweeps and a few erasures.
JOBS_MAX: Final = 20
# The rebuild, and looks for a killed one.
REBUILDER_JOBS_MAX: Final = 5
# A job that was cut off by a worker's end is simply run again; what it did is in the log.
TRIES_MAX: Final = 1_000_000


async def start_rebuilder(ctx: dict[str, Any]) -> None:
    """Open what rebuilds use; refuses settings that would lose data."""
    postgres, ctx["queue"] = PostgresSettings.from_env(), QueueSettings.from_env()
    ctx["engine"] = create_engine(postgres)
    ctx["store"] = open_store(StoreSettings.from_env())
    await check_durability(ctx["engine"], postgres)
    await check_current(ctx["engine"])
    await check_store(ctx["store"])
    ctx["forlorn"] = Forlorn()
    ctx["ready"] = True


async def start(ctx: dict[str, Any]) -> None:
    """Open what the other jobs use, too."""
    await start_rebuilder(ctx)
    queue = ctx["queue"]
    ctx["worker"] = uuid4()
    ctx["turn"] = Turn()
    ctx["wakeup"] = Wakeup(queue)
    ctx["drain"] = Drain(ctx["engine"], ctx["store"], queue, ctx["worker"])
    ctx["housekeeping_at"] = 0.0
    ctx["keepers"] = [asyncio.create_task(keep(ctx)) for keep in (keep_awake, keep_whole)]


async def stop(ctx: dict[str, Any]) -> None:
    """Close what ``start`` opened, as far as it came; safe to call again."""
    keepers = ctx.pop("keepers", [])
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)
    for name in ("drain", "wakeup", "store"):
        if name in ctx:
            with suppress(LogUnavailable):  # the leases run out by themselves
                await ctx.pop(name).close()
    if "engine" in ctx:
        await ctx.pop("engine").dispose()


def make_worker(queue: QueueSettings) -> Worker:
    """Make the arq worker that projects."""
    return _worker(
        queue,
        QUEUE,
        functions=[
            func(drain, timeout=DRAIN_S * 2, max_tries=TRIES_MAX),
            func(quietly(erase), timeout=ERASE_S * 2, max_tries=TRIES_MAX),
        ],
        cron_jobs=[cron(quietly(sweep), second=set(range(60)), unique=False, run_at_startup=True, timeout=30)],
        on_startup=start,
        max_jobs=JOBS_MAX,
    )


def make_rebuilder(queue: QueueSettings) -> Worker:
    """Make the arq worker that rebuilds, on a queue of its own."""
    worker = _worker(
        queue,
        REBUILD_QUEUE,
        functions=[func(rebuild, timeout=REBUILD_S, max_tries=TRIES_MAX)],
        cron_jobs=[cron(quietly(find_killed), second=set(range(60)), unique=False, run_at_startup=True, timeout=30)],
        on_startup=start_rebuilder,
        max_jobs=REBUILDER_JOBS_MAX,
    )
    worker.ctx["tasks"] = worker.tasks  # what find_killed must know
    return worker


def _worker(queue: QueueSettings, name: str, **settings: Any) -> Worker:
    """What both have in common. Results are not kept, since a kept one would block the next job of the same id."""
    return Worker(
        queue_name=name,
        redis_settings=redis_settings(queue),
        on_shutdown=stop,
        handle_signals=False,
        keep_result=0,
        log_results=False,
        job_serializer=encode_job,
        job_deserializer=msgspec.msgpack.decode,
        **settings,
    )
