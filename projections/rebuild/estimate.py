"""Estimating what a rebuild costs from samples; nothing is written."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from commands.db.postgres import Engine
from commands.events import Recorded
from commands.log import event_log as log
from commands.log import user_search
from projections.client.client import RedisClient
from projections.keys import PARTITIONS, View
from projections.projector.fold import fold, script_arguments
from projections.views import generations

# Samples are read at this many places of the log, as a log often begins with all the users.
SAMPLE_PLACES: Final = 5
SAMPLE_EVENTS: Final = 2_000
SAMPLE_USERS: Final = 500
# Redis needs about as long for a batch as this process, partly at the same time.
APPLY_FACTOR: Final = 1.7
# Before the switch the view is compared with the log, which takes about as long as filling it event by event would. A
# snapshot takes a third of that.
VERIFY_FACTOR: Final = 1.3


class Estimate(msgspec.Struct, frozen=True):
    """The cost of a rebuild: events to read, bytes in Redis (None: not known), seconds until the switch."""

    events: int
    expected_bytes: int | None
    expected_s: float


async def estimate(engine: Engine, redis: RedisClient) -> Estimate:
    """Measure samples of the log and of the live view, and return what a rebuild by one process would cost."""
    events, head = await log.count_events(engine), await log.head(engine)
    view = await generations.live_view(redis)
    shape = view or View(0, PARTITIONS)
    began, seen = time.perf_counter(), 0
    for place in range(SAMPLE_PLACES):
        sample = await log.read_after(engine, head.position * place // SAMPLE_PLACES, SAMPLE_EVENTS)
        seen += len(sample)
        _work(sample, shape)
    each_s = (time.perf_counter() - began) / max(seen, 1)
    return Estimate(events, await _expected_bytes(engine, redis, view), events * each_s * APPLY_FACTOR * VERIFY_FACTOR)


def _work(sample: list[Recorded], view: View) -> None:
    for batch in fold(sample, view, dict.fromkeys(range(view.partitions), 0)).partitions.values():
        script_arguments(batch)


async def _expected_bytes(engine: Engine, redis: RedisClient, view: View | None) -> int | None:
    """Return the bytes of a sample of users in the live view, scaled to all users; None without a live view."""
    if view is None:
        return None
    numbers, users = await user_search.spread_sample(engine, SAMPLE_USERS)
    if not numbers:
        return 0
    keys = [key for n in numbers for key in (view.followers(n), view.following(n), view.user(n))]
    sizes = await asyncio.gather(*[redis.call("MEMORY", "USAGE", key) for key in keys])
    return int(sum(size or 0 for size in sizes) / len(numbers) * users)
