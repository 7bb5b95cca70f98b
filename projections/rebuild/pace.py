"""What a build does between two steps: it shows its progress, keeps to its rate, and pauses for live readers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.keys import View
from projections.rebuild.throttle import Throttle


class BuildProgress(msgspec.Struct, frozen=True):
    """How far a build is: events projected by this run, its log position, and the last known end of the log."""

    view: View
    events: int
    position: int
    head: int


class Pace:
    """The pace of one fill, which begins now: at most ``rate`` events a second of its work.

    ``head`` is the last position of the log, as far as it is known.
    """

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        view: View,
        after_batch: Callable[[BuildProgress], Awaitable[None]],
        rate: int | None,
        head: int,
    ) -> None:
        self._engine, self._view, self._after_batch, self._rate = engine, view, after_batch, rate
        self._throttle, self._began = Throttle(engine, redis), time.monotonic()
        self._events, self._work = 0, 0.0
        self.head = head

    async def wait(self, position: int, *, events: int = 0, work: float = 0.0) -> None:
        """Return when the next step may begin; the last one has read ``events``, which brought the build to a position.

        ``work`` is what the step counts against the rate, in events. Raises what ``after_batch`` raises.
        """
        self._events += events
        self._work += work
        if position > self.head:
            self.head = (await log.head(self._engine)).position
        progress = BuildProgress(self._view, self._events, position, self.head)
        await self._after_batch(progress)
        if self._rate is not None:
            await asyncio.sleep(max(0.0, self._began + self._work / self._rate - time.monotonic()))
        while await self._throttle.has_paused():
            await self._after_batch(progress)
