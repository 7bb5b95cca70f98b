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
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec
from redis.exceptions import RedisError, ResponseError

from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable
from commands.log.arrays import EventArrays, read_arrays
from projections.client.client import RedisClient
from projections.client.server_check import SNAPSHOT_COMMANDS, refused_commands
from projections.errors import LogChanged, NoSnapshot
from projections.keys import View
from projections.projector.batches import BATCH_USERS_MAX, add_users
from projections.projector.fold import Folded, Operation
from projections.projector.projector import Projector
from projections.rebuild.pace import Pace
from projections.rebuild.spill import Spill
from projections.rebuild.whole_lists import list_operations
from projections.views.building import snapshot_end

logger: Final = logging.getLogger(__name__)

# Of one script call: two milliseconds of the server's time, which readers wait for.
PART_BYTES: Final = 64_000
# Of a number, about.
VALUE_BYTES: Final = 9
# How often the progress is noted for `follows status` and the callers that wait for the view.
NOTED_EVERY_S: Final = 1.0
# A build's progress, as a share of ``upto``, when the log has been read, and when the users are written.
READ_SHARE: Final = 0.4
USERS_SHARE: Final = 0.5


async def take_snapshot(engine: Engine, redis: RedisClient, projector: Projector, pace: Pace, limit: int) -> None:
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
        with Spill(view, partitions, upto[0]) as spill:
            await Snapshot(engine, projector, pace, upto, partitions, spill).make(limit)
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
    ) -> None:
        self._engine, self._projector, self._pace, self._spill = engine, projector, pace, spill
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
        after, reading = 0, self._start_to_read(0, limit)
        try:
            while after < self._upto:
                arrays = await reading
                if arrays.word != self._word or not arrays.events:
                    raise LogChanged(self._view)
                after = arrays.last
                reading = self._start_to_read(after, limit)
                await asyncio.to_thread(self._spill.add, arrays)
                await self._wait(READ_SHARE * after / self._upto, events=arrays.events, work=arrays.events)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await asyncio.to_thread(self._spill.flush)

    def _start_to_read(self, after: int, limit: int) -> asyncio.Task[EventArrays]:
        return asyncio.create_task(read_arrays(self._engine, after, self._upto, limit))

    async def _write_users(self) -> None:
        """Write the users' rows, as they are now, and what their ids and logins lead to."""
        numbers, have_names = await asyncio.to_thread(self._spill.users)
        for begin in range(0, len(numbers), BATCH_USERS_MAX):
            some = slice(begin, begin + BATCH_USERS_MAX)
            marks = zip(numbers[some].tolist(), have_names[some].tolist(), strict=True)
            folded = Folded(users={number: (self._upto, names) for number, names in marks})
            await add_users(self._engine, folded, self._view, dict.fromkeys(self._left, 0))
            self._projector.note_users(folded)
            await asyncio.gather(*[self._write(one, batch.operations) for one, batch in folded.partitions.items()])
            await self._wait(READ_SHARE + (USERS_SHARE - READ_SHARE) * begin / len(numbers))

    async def _write_lists(self) -> None:
        """Write the lists of each partition, and then its position; the next lists are made meanwhile."""
        total = len(self._left)
        made = _made(self._view, self._spill, list(self._left))
        making = asyncio.create_task(asyncio.to_thread(next, made, None))
        try:
            while (lists := await making) is not None:
                making = asyncio.create_task(asyncio.to_thread(next, made, None))
                for operations in _cut(lists.operations):
                    await self._write(lists.partition, operations)
                    await self._wait(USERS_SHARE + (1 - USERS_SHARE) * (1 - len(self._left) / total))
                if lists.is_last:
                    await self._write(lists.partition, [], self._upto)
                    self._left.pop(lists.partition, None)
                await self._wait(USERS_SHARE + (1 - USERS_SHARE) * (1 - len(self._left) / total), work=lists.events)
        finally:
            await asyncio.gather(making, return_exceptions=True)  # it reads the file, which is closed next

    async def _write(self, partition: int, operations: list[Operation], end: int = 0) -> None:
        """Write the next part of a partition, the last one with the position ``end``.

        A partition that was moved, or has lost a part, is left to the projector.
        """
        if partition not in self._left:
            return
        fence, number = self._projector.fences[partition], self._left[partition]
        names = f"{fence}.{number}" if number else "", "" if end else f"{fence}.{number + 1}"
        if await self._projector.write_part(partition, operations, end, names):
            self._left[partition] = number + 1
        else:
            del self._left[partition]
            logger.warning(
                "Redis lost a part of partition %d: it is built event by event, which takes longer", partition
            )

    async def _wait(self, share: float, *, events: int = 0, work: float = 0.0) -> None:
        """Wait as the pace says, and note now and then that this share of the snapshot is made."""
        position = int(share * self._upto)
        if time.monotonic() - self._noted_at > NOTED_EVERY_S:
            self._noted_at = time.monotonic()
            await self._write(0, [Operation("HSET", self._view.checkpoint(0), ["built", position], 0)])
        await self._pace.wait(position, events=events, work=work)


class _Lists(NamedTuple):
    """The operations that write lists of a partition, of so many events; whether they are its last ones."""

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


def _cut(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Yield operations in parts for one script call each."""
    part, size = list[Operation](), 0
    for operation in operations:
        values = operation.values
        part.append(operation)
        size += len(operation.key) + sum(
            len(memoryview(value)) if isinstance(value, msgspec.Raw) else VALUE_BYTES for value in values
        )
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
