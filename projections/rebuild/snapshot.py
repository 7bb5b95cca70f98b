"""The snapshot in front of a build: whole lists as of one position, instead of every event up to there.

A generation under construction notes that position, ``upto``, when it is prepared. The log is read to there as arrays
and sorted into a temporary file; then the users are written, and partition by partition the lists. A partition stays at
0 until its last part, and no process reads it. When a build was killed, the next one makes such partitions again, from
the same ``upto``: each list is replaced by an equal one. The projector goes on from ``upto``, or from 0 where there is
no snapshot.

Each part names the one before it, so that a part which Redis has lost is noticed although the position does not move.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from itertools import chain, islice, pairwise, repeat
from typing import Final, NamedTuple, TypeVar

import msgspec
from redis.exceptions import RedisError, ResponseError

from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable
from commands.log.arrays import read_arrays
from projections.client.client import RedisClient
from projections.client.server_check import SNAPSHOT_COMMANDS, refused_commands
from projections.errors import LogChanged, NoSnapshot
from projections.keys import View
from projections.projector.apply import LAST_PART
from projections.projector.batches import BATCH_USERS_MAX, add_users
from projections.projector.fold import Folded, Operation
from projections.projector.projector import Projector
from projections.rebuild.limits import SNAPSHOT_LIMITS, SnapshotLimits
from projections.rebuild.pace import Pace
from projections.rebuild.spill import Spill
from projections.rebuild.whole_lists import list_operations
from projections.views.building import snapshot_end

_T = TypeVar("_T")

logger: Final = logging.getLogger(__name__)

# Of a number in an operation, about.
VALUE_BYTES: Final = 9
# A build's progress, as a share of ``upto``, when the log has been read, and when the users are written.
READ_SHARE: Final = 0.4
USERS_SHARE: Final = 0.5


async def take_snapshot(
    engine: Engine,
    redis: RedisClient,
    projector: Projector,
    pace: Pace,
    limit: int,
    limits: SnapshotLimits = SNAPSHOT_LIMITS,
) -> None:
    """Bring the projector's partitions at 0 to their generation's ``upto``, reading ``limit`` events at a time.

    Where that cannot be done, they stay as they are for the projector. Raises as ``Projector.step`` and ``pace.wait``.
    """
    view = projector.view
    partitions = [partition for partition, position in projector.checkpointed.items() if position == 0]
    upto = await snapshot_end(redis, view, partitions)
    if upto is None or not upto[0]:
        return
    try:
        if projector.sets_aside:
            raise NoSnapshot("events are parked or were skipped")
        await _require_restore(redis)
        with Spill(view, partitions, upto[0], limits) as spill, ThreadPoolExecutor(1, "snapshot") as thread:
            await Snapshot(engine, projector, pace, upto, partitions, spill, thread, limits).make(limit)
    except (NoSnapshot, ResponseError) as error:
        logger.warning("generation %d is built event by event, which takes longer: %s", view.generation, error)
    await projector.refresh_parked()


async def _require_restore(redis: RedisClient) -> None:
    """Raise NoSnapshot when a server's user may not send RESTORE."""
    for master in await redis.masters():
        try:
            refused = await refused_commands(master, SNAPSHOT_COMMANDS)
        except (RedisError, OSError) as error:
            raise ViewsUnavailable(said=str(error)) from error
        if refused:
            raise NoSnapshot(f"the user of Redis may not send {', '.join(refused)}")


class Snapshot:
    """One snapshot of some partitions at a position, which has a word in the log."""

    def __init__(
        self,
        engine: Engine,
        projector: Projector,
        pace: Pace,
        upto: tuple[int, int],
        partitions: Collection[int],
        spill: Spill,
        thread: Executor,
        limits: SnapshotLimits,
    ) -> None:
        self._engine, self._projector, self._pace, self._spill = engine, projector, pace, spill
        self._limits = limits
        # One thread, so that what it frees is used again. It works on the file alone, and its steps are short.
        self._in_thread = partial(asyncio.get_running_loop().run_in_executor, thread)
        self._view = projector.view
        self._upto, self._word = upto
        # Partition -> the number of its last part. Partition 0, which has the note of the progress, is the last one.
        self._left = dict.fromkeys(sorted(partitions, reverse=True), 0)
        self._noted_at = time.monotonic()

    async def make(self, limit: int) -> None:
        """Read the log, write the users, then the lists of one partition after the other."""
        self._projector.note_read(self._upto, self._word)
        await self._read(limit)
        await self._write_users()
        await self._write_lists()

    async def _read(self, limit: int) -> None:
        """Sort all events up to ``upto`` into the file; the next ones are read meanwhile."""
        bounds = pairwise(chain(range(0, self._upto, limit), [self._upto]))
        steps = (partial(read_arrays, self._engine, after, end, self._upto) for after, end in bounds)
        async with aclosing(_ahead(steps, self._limits.reads_ahead)) as slices:
            async for arrays in slices:
                if arrays.word != self._word:
                    raise LogChanged(self._view)
                await self._in_thread(self._spill.add, arrays)
                share = READ_SHARE * arrays.end / self._upto
                await self._wait(share, events=arrays.events, work=arrays.events)
        await self._in_thread(self._spill.flush)

    async def _write_users(self) -> None:
        """Write the users' rows, as they are now, and the look-ups of their names; the next ones are read meanwhile."""
        total, written = await self._in_thread(self._spill.users.count), 0
        steps = (partial(self._rows_of, users) for users in self._spill.users.slices(BATCH_USERS_MAX))
        async with aclosing(_ahead(steps, 1)) as batches:
            async for folded in batches:
                self._projector.note_users(folded)
                await asyncio.gather(*[self._write(one, batch.operations) for one, batch in folded.partitions.items()])
                written += len(folded.users)
                share = READ_SHARE + (USERS_SHARE - READ_SHARE) * written / total
                await self._wait(share, work=len(folded.users))

    async def _rows_of(self, have_names: dict[int, bool]) -> Folded:
        """Return what the partitions must write of these users; whether an event may have changed their names."""
        folded = Folded(users={number: (self._upto, names) for number, names in have_names.items()})
        return await add_users(self._engine, folded, self._view, dict.fromkeys(self._left, 0))

    async def _write_lists(self) -> None:
        """Write the lists of each partition, and then its position; the next lists are made meanwhile."""
        total, made = len(self._left), _made(self._view, self._spill, list(self._left))
        async with aclosing(_ahead(repeat(partial(self._in_thread, next, made, None)), 1)) as results:
            async for lists in results:
                if lists is None:
                    break
                parts = list(_cut(lists.operations, self._limits.part_bytes))
                for operations in parts:
                    await self._write(lists.partition, operations)
                    work = lists.events / len(parts)
                    await self._wait(1 - (1 - USERS_SHARE) * len(self._left) / total, work=work)
                if lists.is_last:
                    await self._write(lists.partition, [], self._upto)
                    self._left.pop(lists.partition, None)
                work = 0.0 if parts else lists.events
                await self._wait(1 - (1 - USERS_SHARE) * len(self._left) / total, work=work)

    async def _write(self, partition: int, operations: list[Operation], end: int = 0) -> None:
        """Write the next part of a partition, the last one with the position ``end``.

        A partition that was moved, or has lost a part, is left to the projector.
        """
        if partition not in self._left:
            return
        fence, number = self._projector.fences[partition], self._left[partition]
        names = f"{fence}.{number}" if number else "", LAST_PART if end else f"{fence}.{number + 1}"
        if await self._projector.write_part(partition, operations, end, names):
            self._left[partition] = number + 1
        else:
            del self._left[partition]
            logger.warning(
                "partition %d lost a part of its snapshot, or was moved: it is built event by event", partition
            )

    async def _wait(self, share: float, *, events: int = 0, work: float = 0.0) -> None:
        """Wait as the pace says, and note now and then that this share of the snapshot is made."""
        position = int(share * self._upto)
        if time.monotonic() - self._noted_at > self._limits.noted_every_s:
            self._noted_at = time.monotonic()
            await self._write(0, [Operation("HSET", self._view.checkpoint(0), ["built", position], 0)])
        await self._pace.wait(position, events=events, work=work)


async def _ahead(steps: Iterable[Callable[[], Awaitable[_T]]], count: int) -> AsyncGenerator[_T]:
    """Yield what the steps return, in order; the next ``count`` of them run meanwhile."""
    left = iter(steps)
    running = deque(asyncio.ensure_future(step()) for step in islice(left, count))
    try:
        while running:
            result = await running[0]
            running.popleft()
            running.extend(asyncio.ensure_future(step()) for step in islice(left, 1))
            yield result
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class _Lists(NamedTuple):
    """The operations that write lists of a partition, the number of their events, and whether they are the last."""

    partition: int
    operations: list[Operation]
    events: float
    is_last: bool


def _made(view: View, spill: Spill, partitions: Iterable[int]) -> Iterator[_Lists]:
    """Yield the lists of the partitions, a bucket at a time."""
    for partition in partitions:
        for bucket in range(spill.buckets):
            for part, records in enumerate(spill.read(partition, bucket)):
                operations = list(list_operations(view, records, is_first=part == 0))
                yield _Lists(partition, operations, len(records) / 2, is_last=False)
        yield _Lists(partition, [], 0.0, is_last=True)


def _cut(operations: Iterable[Operation], part_bytes: int) -> Iterator[list[Operation]]:
    """Yield operations in parts for one script call each."""
    part, size = list[Operation](), 0
    for operation in operations:
        values = operation.values
        part.append(operation)
        size += len(operation.key) + sum(
            len(memoryview(value)) if isinstance(value, msgspec.Raw) else VALUE_BYTES for value in values
        )
        if size >= part_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part
