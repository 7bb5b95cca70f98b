"""Comparison of a view with the log while writes go on: first by digest, then, where they differ, cell by cell.

Nothing is stopped for it. ``suspects`` reads users in batches, in script calls short enough for readers not to notice.
What may differ is then examined by ``expected``, which alone decides what a difference is. So a concurrent write can
cost a second look, but never a false alarm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from commands.db.postgres import Engine
from commands.log import user_search
from projections.client.client import RedisClient
from projections.keys import View
from projections.verify.cells import Cell, by_partition
from projections.verify.expected import Difference, LeftOut, examine, read_left_out
from projections.verify.limits import VERIFY_LIMITS, VerifyLimits
from projections.verify.orphans import stray_cells
from projections.verify.partitions import check_partitions, lagging
from projections.verify.suspects import Suspects

OnDifferences = Callable[[list[Difference]], Awaitable[None]]


class VerifyResult(msgspec.Struct):
    """What a comparison has found so far.

    ``undecided`` cells could not be judged: their partitions did not reach their rows in time. ``parked`` pairs with
    parked events were not compared. ``behind`` maps partitions to their lag in seconds. ``reached`` is the highest
    user number of the batches compared. ``unknown`` are users of the log whom the directory does not know.
    """

    generation: int
    users: int = 0
    entries: int = 0
    differences: int = 0
    undecided: int = 0
    parked: int = 0
    behind: dict[int, float] = msgspec.field(default_factory=dict)
    reached: int = 0
    unknown: set[int] = msgspec.field(default_factory=set)

    @property
    def clean(self) -> bool:
        """Return whether nothing differs and everything could be judged."""
        return not (self.differences or self.undecided or self.behind)


OnProgress = Callable[[VerifyResult], Awaitable[None]]


async def verify(
    engine: Engine,
    redis: RedisClient,
    view: View,
    on_differences: OnDifferences,
    *,
    numbers: Sequence[int] | None = None,
    also: Sequence[Cell] = (),
    on_progress: OnProgress | None = None,
    limits: VerifyLimits = VERIFY_LIMITS,
) -> VerifyResult:
    """Compare users ``numbers`` and the cells in ``also``, or everything in the generation, with the log.

    ``on_differences`` is called with differences as they are found, ``on_progress`` after each batch. A live
    generation is compared while it is projected, any other while no process projects it. Raises ViewLost.
    """
    partitions = await check_partitions(engine, redis, view)
    left_out = await read_left_out(engine, redis)
    comparison = ViewComparison(engine, redis, view, partitions.comparable, left_out, on_differences, limits)
    await comparison.report(partitions.differences)
    await comparison.compare_users(_batches(engine, numbers, limits.users), on_progress)
    if numbers is None:
        async for strays in stray_cells(engine, redis, view):
            await comparison.examine(strays.cells)
            comparison.result.unknown |= strays.unknown
        unknown = sorted(comparison.result.unknown)
        await comparison.compare_users(_batches(engine, unknown, limits.users), on_progress=None)
    await comparison.examine(also)
    await comparison.examine_pending()
    result = comparison.result
    result.behind = await lagging(engine, redis, view, partitions.comparable, partitions.head, limits.lag_s)
    return result


async def count_differences(
    engine: Engine, redis: RedisClient, view: View, on_batch: Callable[[], Awaitable[None]] | None = None
) -> int:
    """Compare a generation that is not projected now; return the number of differences.

    What has changed since it was filled is not counted: its partitions have yet to get there.
    """

    async def ignore(_: list[Difference]) -> None:
        pass

    async def on_progress(_: VerifyResult) -> None:
        if on_batch is not None:
            await on_batch()

    limits = VerifyLimits(pending_timeout_s=0.0)
    return (await verify(engine, redis, view, ignore, on_progress=on_progress, limits=limits)).differences


class ViewComparison:
    """One run of ``verify``: compares batches of users, examines suspects, reports what differs."""

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        view: View,
        comparable: frozenset[int],
        left_out: LeftOut,
        on_differences: OnDifferences,
        limits: VerifyLimits,
    ) -> None:
        """``comparable`` are the partitions whose cells are compared."""
        self._engine, self._redis, self._view = engine, redis, view
        self._comparable, self._on_differences, self._limits = comparable, on_differences, limits
        self._scripts = asyncio.Semaphore(limits.scripts)
        self._suspects = Suspects(engine, redis, view, left_out, limits, self._scripts)
        self._pending: list[Cell] = []
        self.result = VerifyResult(view.generation, parked=len(left_out.pairs))

    async def compare_users(self, batches: AsyncIterator[list[int]], on_progress: OnProgress | None) -> None:
        """Compare all batches, several at a time."""
        turn = asyncio.Lock()

        async def compare_next() -> None:
            while True:
                async with turn:
                    batch = await anext(batches, None)
                if batch is None:
                    return
                await self._compare_batch(batch)
                if on_progress is not None:
                    await on_progress(self.result)

        await _run_all([compare_next() for _ in range(self._limits.batches)])

    async def _compare_batch(self, batch: list[int]) -> None:
        numbers = [number for number in batch if self._view.partition_of(number) in self._comparable]
        async for suspects in self._suspects.find(numbers):
            await self.examine(suspects)
        self.result.users += len(numbers)
        self.result.entries = self._suspects.entries
        self.result.reached = max(self.result.reached, batch[-1])

    async def examine(self, suspects: Iterable[Cell]) -> None:
        """Examine cells, report what differs, and keep what is pending."""
        for partition, some in by_partition(suspects, self._limits.cells):
            if partition is None:
                await self.report([Difference(cell, None, "a key") for cell in some])
            elif partition in self._comparable:
                async with self._scripts:
                    examined = await examine(self._engine, self._redis, self._view, partition, some)
                await self.report(examined.differences)
                room = max(0, self._limits.pending - len(self._pending))
                self._pending += [one.cell for one in examined.pending[:room]]
                self.result.undecided += len(examined.pending[room:])

    async def examine_pending(self) -> None:
        """Examine again the cells whose rows were newer than their partitions, until the partitions reach them."""
        deadline = time.monotonic() + self._limits.pending_timeout_s
        while self._pending and time.monotonic() < deadline:
            await asyncio.sleep(self._limits.pending_retry_s)
            pending, self._pending = self._pending, []
            await self.examine(pending)
        self.result.undecided += len(self._pending)

    async def report(self, differences: list[Difference]) -> None:
        """Count differences and pass them on."""
        if differences:
            self.result.differences += len(differences)
            await self._on_differences(differences)


async def _run_all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of it; when one fails, stop the others and raise its error."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _batches(engine: Engine, numbers: Sequence[int] | None, size: int) -> AsyncIterator[list[int]]:
    if numbers is not None:
        for start in range(0, len(numbers), size):
            yield list(numbers[start : start + size])
        return
    after = 0
    while batch := await user_search.numbers_after(engine, after, size):
        yield batch
        after = batch[-1]
