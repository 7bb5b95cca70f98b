"""Pausing a build while it would make live readers wait: the live view comes first."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.views import generations

# A build pauses while the live view lags more than this; a caller waits about a second for a follow to be visible.
LIVE_LAG_MAX_S: Final = 1.0
# The lag is measured at most this often, and a pause lasts as long.
LIVE_LAG_EVERY_S: Final = 0.2
# A live view that has not moved for this long is paused, broken or without workers: pausing would not help it.
LIVE_STUCK_S: Final = 3.0


class Throttle:
    """Pauses one build while the live view lags and moves."""

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        *,
        lag_max_s: float = LIVE_LAG_MAX_S,
        every_s: float = LIVE_LAG_EVERY_S,
        stuck_s: float = LIVE_STUCK_S,
    ) -> None:
        self._engine, self._redis = engine, redis
        self._lag_max_s, self._every_s, self._stuck_s = lag_max_s, every_s, stuck_s
        self._measured_at = 0.0
        self._position, self._moved_at = -1, time.monotonic()

    async def has_paused(self) -> bool:
        """Pause for a moment if the build must; return whether it has. To be called until it has not."""
        if time.monotonic() - self._measured_at < self._every_s:
            return False
        lowest, lag_s = await live_lag(self._engine, self._redis)
        self._measured_at = time.monotonic()
        if lowest != self._position:
            self._position, self._moved_at = lowest, self._measured_at
        if lag_s <= self._lag_max_s or self._measured_at - self._moved_at > self._stuck_s:
            return False
        await asyncio.sleep(self._every_s)
        return True


async def live_lag(engine: Engine, redis: RedisClient) -> tuple[int, float]:
    """Return the lowest position of the live view's partitions, and the age of the first event it lacks, in seconds.

    (0, 0) without a complete live view.
    """
    view = await generations.live_view(redis)
    if view is None:
        return 0, 0.0
    found = await generations.checkpoints(redis, view, range(view.partitions))
    if None in found.values():
        return 0, 0.0
    lowest = min(checkpoint.position for checkpoint in found.values() if checkpoint)
    since = await log.time_after(engine, lowest)
    return lowest, 0.0 if since is None else max(0, (await log.head(engine)).now - since) / 1_000_000
