"""Collects the state once a second: each server is asked with a time limit, and the last state is always there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from commands.coordination.overview import GenerationFact, LogFacts, Overview
from commands.db.unavailable import words_of
from commands.errors import LogUnavailable, SettingsError, Unavailable
from projections.client.client import RedisClient
from projections.state.judge import judge
from projections.state.problems import StateProblem, problem, time_text
from projections.state.state import Build, PartitionState, State, build_of, partitions_of
from projections.state.view_facts import FACTS_TIMEOUT_S, ViewFacts, read_build_positions, read_view_facts
from projections.views.lag_clock import LagClock
from projections.views.server_watch import ServerState

logger: Final = logging.getLogger(__name__)

STATE_INTERVAL_S: Final = 1.0
# The speed of a build is that of the last so many readings.
RATE_READINGS: Final = 10


class StateWatch:
    """Reads the state; ``state`` is the last one, ``problems`` what was wrong then, None before the first."""

    def __init__(
        self,
        overview: Overview,
        redis: RedisClient,
        servers: Callable[[], Mapping[str, ServerState | None] | None] = lambda: None,
        queue_why_not: Callable[[], str | None] = lambda: None,
        look: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """``servers`` returns what another watch knows of the Redis servers, None for this one to ask them. ``look`` is
        called before each reading, with a time limit; what it raises as Unavailable is nothing to this watch."""
        self._overview, self._redis, self._servers, self._queue_why_not = overview, redis, servers, queue_why_not
        self._look = look
        self._lag_clock = LagClock()
        # Generation -> (monotonic time, position) of the latest readings.
        self._builds: dict[int, deque[tuple[float, int]]] = {}
        # Code -> when a problem was seen first, in us since 1970; None for one of the first reading.
        self._since: dict[str, int | None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.state: State | None = None
        self.problems: list[StateProblem] = []
        # Called with each reading as soon as it is made.
        self.on_reading: Callable[[State], None] = lambda _: None

    async def start(self) -> None:
        """Read for the first time, then go on in the background. Raises nothing."""
        await self._refresh()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop reading."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await self._overview.close()

    async def read(self) -> State:
        """Read the state now; takes less than a second whatever hangs."""
        views = await read_view_facts(self._redis, self._servers())
        log, why_not, is_wrong = None, None, False
        try:
            log = await self._overview.read(views.positions, views.store)
        except LogUnavailable as error:
            why_not, is_wrong = words_of(error), isinstance(error.__cause__, SettingsError)
        partitions = partitions_of(log, views)
        builds = await self._read_builds(log)
        lag_s = self._lag_s(log, views, partitions)
        return State(log, why_not, views, builds, partitions, lag_s, self._queue_why_not(), log_is_wrong=is_wrong)

    def build_left_s(self) -> float | None:
        """Return the seconds until the next view is built, as of the latest reading; None when that is not known."""
        build = next(iter(self.state.builds), None) if self.state is not None else None
        return None if build is None else build.seconds_left

    def judge(self, state: State) -> list[StateProblem]:
        """Return the problems of ``state``; those that do not say since when have the time when they were seen first,
        unless the first reading had them: then it is not known."""
        found = judge(state)
        now = None if self._since is None else time.time_ns() // 1000
        before = self._since or {}
        self._since = {one.code: before.get(one.code, now) for one in found}
        return [_with_since(one, self._since[one.code]) for one in found]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(STATE_INTERVAL_S)
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            if self._look is not None:
                with suppress(Unavailable, TimeoutError):
                    async with asyncio.timeout(FACTS_TIMEOUT_S):
                        await self._look()
            self.state = await self.read()
            self.problems = self.judge(self.state)
            self.on_reading(self.state)
        except Exception as error:  # no caller waits for this task
            logger.exception("the state could not be collected; the next reading tries again")
            failed = problem("state_unknown", f"the state could not be collected ({type(error).__name__})")
            self.problems = [*(one for one in self.problems if one.code != failed.code), failed]

    async def _read_builds(self, log: LogFacts | None) -> list[Build]:
        if log is None:
            return []
        facts = [fact for fact in log.generations if fact.state == "building"]
        positions = await read_build_positions(self._redis, facts)
        self._builds = {fact.number: self._builds.get(fact.number, deque(maxlen=RATE_READINGS)) for fact in facts}
        return [build_of(fact, log, positions[fact.number], self._rate(fact, positions[fact.number])) for fact in facts]

    def _rate(self, fact: GenerationFact, position: int | None) -> float | None:
        """Return a build's events per second over the latest readings; None before there are two."""
        readings = self._builds[fact.number]
        if position is not None:
            readings.append((time.monotonic(), position))
        if len(readings) < 2:
            return None
        (began, first), (ended, last) = readings[0], readings[-1]
        return (last - first) / max(ended - began, 1e-3) if last > first else None

    def _lag_s(self, log: LogFacts | None, views: ViewFacts, partitions: Sequence[PartitionState]) -> float | None:
        known = [one for one in partitions if one.position is not None and one.lag_events is not None]
        if log is None or views.live is None or not known or len(known) < len(partitions):
            return None
        last = min(known, key=lambda one: one.position or 0)
        age_us = None if last.lag_s is None else int(last.lag_s * 1e6)
        return self._lag_clock.lag_s(views.live.view, last.position or 0, log.position, age_us)


def _with_since(one: StateProblem, since_us: int | None) -> StateProblem:
    if one.since is not None or since_us is None:
        return one
    return msgspec.structs.replace(one, since=time_text(since_us))
