"""The projector: reads the log after the lowest checkpoint, folds a batch, applies it to every partition it touches.

Live projection and rebuilds use the same projector; they differ in the view and in the size of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from redis.exceptions import ResponseError

from commands.db.postgres import Engine
from commands.events import Recorded
from projections.client.client import RedisClient
from projections.errors import BatchRefused, Fenced, LogChanged, ViewLost
from projections.keys import Place, View
from projections.projector.apply import NO_PART, Outcome, apply, call_of, new_token
from projections.projector.batches import BatchReader, add_users
from projections.projector.fold import Folded, Operation, PartitionBatch, fold
from projections.projector.history import ViewHistory
from projections.projector.parking import ParkedPairs
from projections.projector.read_words import ReadWords
from projections.projector.refused import find_refused, rejected_events
from projections.signals.progress import changed_since
from projections.views.freezes import Freezes
from projections.views.generations import checkpoints

logger: Final = logging.getLogger(__name__)

# A live batch takes about 20 ms, in script calls of some 5: it is seen soon, and keeps up with many writers.
LIVE_BATCH: Final = 2_000
# In a larger batch, more events are about the same user and are written as one. Beyond this, readers would notice the
# length of each script call.
REBUILD_BATCH: Final = 10_000
# If a batch has more refused operations, the server or this version is at fault: stop rather than park the log.
PARKED_MAX: Final = 100


class Projector:
    """Brings partitions of one view up to date with the log, and holds their positions.

    ``checkpointed`` is the position in a partition's checkpoint. ``read_to`` may be beyond it: the events in between
    were read and do not touch the partition, which ``write_checkpoints`` records when there is time.
    """

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        view: View,
        fences: dict[int, int],
        parked_max: int = PARKED_MAX,
        read_words: ReadWords | None = None,
        store: str | None = None,
    ) -> None:
        """``fences`` maps each partition to project, at least one, to the fence of its lease. ``read_words`` gets the
        words of what is read. ``store`` is the word of this Redis; it is read when it is not given."""
        self._engine, self._redis, self._parked_max = engine, redis, parked_max
        self._parked = ParkedPairs(engine, redis, store)
        self._freezes = Freezes(engine, redis)
        # A partition has passed events that were not read here; another worker may have parked some of them.
        self._parked_outdated = False
        self.history = ViewHistory(engine, view, read_words or ReadWords())
        self.view = view
        self.fences = fences
        self.batches = BatchReader(engine, view, fences)
        self.checkpointed: dict[int, int] = {}
        self.read_to: dict[int, int] = {}
        # Users whose profiles were written since this was last reported. None: perhaps all, since a worker before this
        # one may have been killed before it reported.
        self.changed: set[int] | None = None

    @property
    def position(self) -> int:
        """The log position that every partition has reached."""
        return min(self.read_to.values())

    async def load(self) -> None:
        """Read the checkpoints, and write this projector's fences to them.

        Raises ViewLost, LogChanged, Fenced, BatchRefused, ViewsUnavailable, LogUnavailable.
        """
        found = await checkpoints(self._redis, self.view, self.fences)
        for partition, checkpoint in found.items():
            if checkpoint is None:
                raise ViewLost(self.view, partition)
            self._set_position(partition, checkpoint.position)
        await self.history.load(found.values())
        await self.refresh_parked()
        refused = await self._apply({partition: PartitionBatch() for partition in self.fences}, self.checkpointed)
        if refused:
            raise BatchRefused(refused, "refuse even an empty batch")

    async def go_on_from(self, before: Projector | None, replaced: int) -> None:
        """Take over the changed profiles that ``before`` has not reported, if it projected the generation ``replaced``
        of the same log. A partition that it did not project may have had changes that no worker reported."""
        if (
            before is not None
            and before.changed is not None
            and before.view.generation == replaced
            and self.fences.keys() <= before.fences.keys()
        ):
            since = await changed_since(self._engine, before.position, self.position)
            self.changed = None if since is None else before.changed.union(since)

    async def refresh_parked(self) -> None:
        """Read which pairs have parked events: later events of these pairs must wait, too."""
        self._parked_outdated = False
        await self._parked.refresh()

    async def step(self, limit: int = LIVE_BATCH) -> int:
        """Project the next batch; return the number of events read, 0 at the log's end.

        Raises LogChanged when the log has lost events that a partition has passed, and otherwise as ``load``.
        """
        before = self.position
        events, folded, _, word, word_before, _ = await self.batches.read(before, limit)
        await self.history.check(max(self.read_to.values()), before, word_before)
        if not events:
            return 0
        end = events[-1].position
        self.note_read(end, word)
        if self._parked_outdated:
            await self.refresh_parked()
        projectable = await self._parked.split(events)
        if projectable is not events:  # in a log that has lost these events none of them was parked
            await self.history.require({(end, word)})
        if projectable is not events or set(self.read_to.values()) != {before}:
            folded = await self._fold(projectable)
        self.note_users(folded)
        for partition in await self._apply(folded.partitions, dict.fromkeys(folded.partitions, end)):
            await self._park_refused(partition, projectable, end)
        for partition, position in self.read_to.items():
            if partition not in folded.partitions and position < end:
                self.read_to[partition] = end
        return len(events)

    async def write_checkpoints(self) -> None:
        """Write the positions of the partitions that the last batches did not touch."""
        idle = {
            partition: PartitionBatch() for partition, at in self.read_to.items() if at > self.checkpointed[partition]
        }
        if idle:
            await self._apply(idle, {partition: self.read_to[partition] for partition in idle})

    async def check(self) -> None:
        """Check that the checkpoints are where this projector left them, and continue from where they are.

        Raises ViewLost, LogChanged, Fenced, ViewsUnavailable.
        """
        if moved := await self._read_checkpoints(self.fences):
            logger.warning(
                "checkpoints of partitions %s moved (now %d): Redis lost writes or another worker took over; "
                "continuing from there",
                moved,
                self.checkpointed[moved[0]],
            )

    async def _read_checkpoints(self, partitions: Iterable[int]) -> list[int]:
        """Continue from where these checkpoints are; return the partitions that have moved. Raises as ``check``."""
        found = await checkpoints(self._redis, self.view, partitions)
        moved: dict[int, int] = {}
        unknown: set[Place] = set()
        for partition, checkpoint in found.items():
            if checkpoint is None:
                raise ViewLost(self.view, partition)
            if checkpoint.fence > self.fences[partition]:
                raise Fenced(f"partition {partition} of generation {self.view.generation}")
            if checkpoint.position != self.checkpointed[partition]:
                moved[partition] = checkpoint.position
            if partition in moved or not self.history.knows(checkpoint):
                unknown.update(checkpoint.words)
        if unknown:
            await self.history.take_over(unknown)
        for partition, position in moved.items():
            self._parked_outdated = True
            self._set_position(partition, position)
        return list(moved)

    @property
    def sets_aside(self) -> bool:
        """Return whether events are parked, or were skipped by an operator."""
        return not self._parked.is_empty

    async def write_part(self, partition: int, operations: list[Operation], end: int, parts: tuple[str, str]) -> bool:
        """Write a part of a partition's snapshot, and move its checkpoint to ``end``: with the last part, else 0.

        ``parts`` are the names of the part before ("" for the first) and of this one (LAST_PART for the last).

        Return False if the partition is not where this projector left it. Raises ResponseError, and as ``load``.
        """
        return await self._apply_one(partition, operations, end, parts)

    def note_read(self, position: int, word: int | None) -> None:
        """Note that the log was read up to a position, which has this word."""
        self.history.keep({*self.checkpointed.values(), *self.read_to.values()}, position, word)
        self._parked.read_to = position, word

    async def close(self) -> None:
        """Discard what was read ahead."""
        await self.batches.close()

    async def _fold(self, events: Iterable[Recorded]) -> Folded:
        return await add_users(self._engine, fold(events, self.view, self.read_to), self.view, self.read_to)

    async def _apply(self, batches: Mapping[int, PartitionBatch], ends: dict[int, int]) -> list[int]:
        """Apply each partition's batch in one round trip and take over its position; return the refusing partitions."""
        outcomes = await self._outcomes(batches, ends)
        refused: list[int] = []
        moved: dict[str, list[int]] = {"AHEAD": [], "BEHIND": []}
        for partition, outcome in outcomes.items():
            if isinstance(outcome, ResponseError):
                refused.append(partition)
            elif not self._use_outcome(partition, *outcome):
                moved[outcome[0]].append(partition)
        if any(moved.values()):
            await self._read_checkpoints([*moved["AHEAD"], *moved["BEHIND"]])
        for name, partitions in moved.items():
            if partitions:
                position = self.checkpointed[partitions[0]]
                logger.warning("partitions %s are %s (now %d); continuing from there", partitions, name, position)
        return refused

    async def _outcomes(
        self, batches: Mapping[int, PartitionBatch], ends: Mapping[int, int], parts: tuple[str, str] = NO_PART
    ) -> dict[int, Outcome | ResponseError]:
        calls, token = {}, new_token()
        for partition, batch in batches.items():
            begin, end = self.checkpointed[partition], ends[partition]
            head = (begin, end, self.fences[partition], *self.history.fields(begin, end))
            calls[partition] = call_of(self.view, partition, head, batch, token, parts)
        return await apply(self._redis, self._freezes, calls)

    async def _apply_one(
        self, partition: int, operations: list[Operation], end: int, parts: tuple[str, str] = NO_PART
    ) -> bool:
        """Apply operations to one partition; return False if it is not where this projector left it. Raises
        ResponseError when Redis refuses them."""
        outcome = (await self._outcomes({partition: PartitionBatch(operations)}, {partition: end}, parts))[partition]
        if isinstance(outcome, ResponseError):
            raise outcome
        is_applied = self._use_outcome(partition, *outcome)
        if not is_applied:
            await self._read_checkpoints([partition])
        return is_applied

    def _use_outcome(self, partition: int, outcome: str, position: int) -> bool:
        """Take over the position after a batch; return False if another worker applied it, or Redis lost writes."""
        match outcome:
            case "OK":
                self._set_position(partition, position)
                return True
            case "AHEAD" | "BEHIND":  # also if the checkpoint is back where it was when it is read again
                self._parked_outdated = True
                return False
            case "FENCED":
                raise Fenced(f"partition {partition} of generation {self.view.generation}")
            case "OTHER_HISTORY":
                raise LogChanged(self.view)
            case _:
                raise ViewLost(self.view, partition)

    def note_users(self, folded: Folded) -> None:
        """Note whose profiles are about to be written, and up to which position their rows are new."""
        if self.changed is not None:
            self.changed.update(folded.users)
        if folded.rows_at is not None:
            self.history.note_rows(folded.rows_at)

    def _set_position(self, partition: int, position: int) -> None:
        self.checkpointed[partition] = self.read_to[partition] = position

    async def _park_refused(self, partition: int, events: Sequence[Recorded], end: int) -> None:
        """Find which events of a refused batch are at fault, park them with their pairs, and apply the rest.

        If the partition moves meanwhile, because Redis lost writes, the next step begins from where it is then.
        """
        begin = self.checkpointed[partition]
        if await self._apply({partition: PartitionBatch()}, {partition: begin}):
            raise BatchRefused([partition], "refuse even an empty batch")  # so no event is at fault
        batch = (await self._fold(events)).partitions[partition]

        async def try_out(operations: list[Operation]) -> None:
            """Apply operations without moving the checkpoint. Raises ResponseError when Redis refuses them."""
            if self.checkpointed[partition] == begin:
                await self._apply_one(partition, operations, begin)

        refused = await find_refused(try_out, partition, batch.operations, self._parked_max)
        if self.checkpointed[partition] != begin:  # these events are not the next ones of the partition any more
            return
        await self._parked.park(rejected_events(self.view, refused, events))
        rest = await self._parked.projectable(events)
        await self.history.require({(end, self.history.word(end))})
        batch = (await self._fold(rest)).partitions.get(partition, PartitionBatch())
        if await self._apply({partition: batch}, {partition: end}):
            raise BatchRefused([partition], "refuse what is left after parking")
