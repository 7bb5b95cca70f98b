"""What a rebuild is going to cost, measured on samples; nothing is written."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from commands import log
from commands.events import Recorded
from commands.postgres import Engine
from projections import generations
from projections.fold import fold, script_arguments
from projections.keys import LANES, View
from projections.store import Store

# Places of the log from which a sample is read, and events from each: a log often begins with all the users.
PLACES: Final = 5
SAMPLE: Final = 2_000
USERS: Final = 500
# Redis needs about as long for a batch as we do, partly at the same time.
APPLYING: Final = 1.7
# Before the switch all is compared with the log, which takes about as long as filling.
COMPARING: Final = 2.0


class Estimate(msgspec.Struct, frozen=True):
    """What a rebuild is going to cost: events to read, bytes in Redis (None: not known), seconds up to the switch."""

    events: int
    expected_bytes: int | None
    expected_s: float


async def estimate(engine: Engine, store: Store) -> Estimate:
    """Measure samples of the log and of the live view, and tell what a rebuild by one process would cost."""
    events, head = await log.count(engine), await log.head(engine)
    view = await generations.live_view(store)
    shape = view or View(0, LANES)
    began, seen = time.perf_counter(), 0
    for place in range(PLACES):
        sample = await log.read_after(engine, head.position * place // PLACES, SAMPLE)
        seen += len(sample)
        _work(sample, shape)
    each_s = (time.perf_counter() - began) / max(seen, 1)
    return Estimate(events, await _expected_bytes(engine, store, view), events * each_s * APPLYING * COMPARING)


def _work(sample: list[Recorded], view: View) -> None:
    for batch in fold(sample, view, dict.fromkeys(range(view.lanes), 0)).lanes.values():
        script_arguments(batch)


async def _expected_bytes(engine: Engine, store: Store, view: View | None) -> int | None:
    """What a sample of users needs in the live view, times the users; None when there is no live view."""
    if view is None:
        return None
    numbers, users = await log.sample_users(engine, USERS)
    if not numbers:
        return 0
    keys = [key for n in numbers for key in (view.followers(n), view.following(n), view.user(n))]
    sizes = await asyncio.gather(*[store.call("MEMORY", "USAGE", key) for key in keys])
    return int(sum(size or 0 for size in sizes) / len(numbers) * users)
