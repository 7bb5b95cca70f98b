"""The catch-up loop: read the log behind the lowest checkpoint, fold, apply to every touched lane. Live and rebuild
use the same loop; they differ in the view and the size of a batch."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from redis.exceptions import ResponseError

from commands import directory, log
from commands.errors import FollowsError
from commands.events import Recorded
from commands.postgres import Engine
from projections.fold import Folded, Folding, LaneBatch, Operation, add_user, fold, halves, script_arguments
from projections.generations import Checkpoint, checkpoints
from projections.keys import View, group_of, number_of
from projections.setting_aside import Aside, Culprit
from projections.store import Store, load_script

logger: Final = logging.getLogger(__name__)

APPLY: Final = load_script("projections", "apply.lua", reads=False)
# A live batch takes some 20 ms: small enough to be seen soon, large enough to keep up with many writers.
LIVE_BATCH: Final = 2_000
# Of more events more are about the same user and are written as one; with still more, readers would feel each script.
REBUILD_BATCH: Final = 10_000
# Somebody who mends a lane holds it for milliseconds; so often we look whether he is done.
HELD_S: Final = 0.02
# A batch is read and folded in parts of so many events; an answer can wait for one of them.
PART: Final = 1_000
# A user's row is some kB of work: of so many a batch is full, so that its size is bounded, too.
USERS_MAX: Final = 2_000
# More culprits than this in one batch are no bad events but a bad server or a bug: stop rather than park the log.
PARKED_MAX: Final = 100


class Fenced(FollowsError):
    """Another worker owns these lanes now; this one must stop."""


class ViewLost(FollowsError):
    """A checkpoint is missing, or is of another log: the view must be built anew."""


class LogChanged(ViewLost):
    """The log is not the one that the view was made from: another database, or one restored to an older state."""


class Broken(FollowsError):
    """So much of a batch cannot be applied that parking it would park the log."""


class Batch(NamedTuple):
    """What comes next in the log, folded for lanes that have none of it; and if there may be more behind it."""

    events: list[Recorded]
    folded: Folded
    more: bool


NOTHING: Final = Batch([], Folded(), more=False)


class Projector:
    """Brings a set of lanes of one view up to the log; holds where each of them stands.

    ``stored`` is what the lane's checkpoint says. ``reached`` may be beyond it: the events in between have been read
    and do not touch the lane, which ``settle`` writes down when there is time.
    """

    def __init__(self, engine: Engine, store: Store, view: View, fences: dict[int, int], epoch: UUID) -> None:
        """``fences`` maps each lane to project, of which there is at least one, to the fence of its lease."""
        self._engine, self._store, self._epoch = engine, store, str(epoch)
        self._aside = Aside(engine)
        self._ahead: tuple[int, asyncio.Task[Batch]] | None = None
        # A lane may have come past events that we have not read, by somebody who has parked some of them.
        self._overtaken = False
        # When the event was recorded at which a lane has arrived (us; 0 when that is not known).
        self._times: dict[int, int] = {}
        self.view = view
        self.fences = fences
        self.stored: dict[int, int] = {}
        self.reached: dict[int, int] = {}
        # Whose profiles have been written, for whoever tells readers of it and begins anew then. None: perhaps all,
        # since somebody before us may have died before he told.
        self.changed: set[int] | None = None
        # The lanes that have been written, for the same.
        self.written: set[int] = set()

    @property
    def position(self) -> int:
        """The log position that every lane has reached."""
        return min(self.reached.values())

    async def load(self) -> None:
        """Read where the lanes stand, and let our fence be known there.

        Raises ViewLost, LogChanged, Fenced, StoreUnavailable, LogUnavailable.
        """
        found = await checkpoints(self._store, self.view, self.fences)
        for lane, checkpoint in found.items():
            if checkpoint is None:
                raise ViewLost(f"lane {lane} of generation {self.view.generation} is lost")
            self._times[lane] = checkpoint.stamp
            self._stand(lane, checkpoint.position)
        if not await is_of(self._engine, found, self._epoch):
            raise LogChanged(
                f"generation {self.view.generation} was made from another log, or from one that was since restored to "
                "an older state"
            )
        await self.refresh_parked()
        refused = await self._apply({lane: LaneBatch() for lane in self.fences}, self.stored)
        if refused:
            raise Broken(f"the lanes {refused} take nothing at all")

    async def refresh_parked(self) -> None:
        """Read which pairs have parked events: what comes later on them must wait, too."""
        self._overtaken = False
        await self._aside.refresh()

    async def step(self, limit: int = LIVE_BATCH) -> int:
        """Project the next batch; give how many events were read, 0 when the log's end is reached."""
        before = self.position
        events, folded, _ = await self._read(limit)
        if not events:
            return 0
        end, at = events[-1].position, events[-1].recorded_at
        if self._overtaken:
            await self.refresh_parked()
        clear = await self._aside.sort_out(events)
        if clear is not events or set(self.reached.values()) != {before}:
            folded = await self._fold(clear)
        if self.changed is not None:
            self.changed.update(folded.users)
        self._times.update(dict.fromkeys(folded.lanes, at))
        for lane in await self._apply(folded.lanes, dict.fromkeys(folded.lanes, end)):
            await self._isolate(lane, clear, end)
        for lane, position in self.reached.items():
            if lane not in folded.lanes and position < end:
                self.reached[lane], self._times[lane] = end, at
        return len(events)

    async def settle(self) -> None:
        """Write down how far the lanes have come that nothing touched."""
        idle = {lane: LaneBatch() for lane, at in self.reached.items() if at > self.stored[lane]}
        if idle:
            await self._apply(idle, {lane: self.reached[lane] for lane in idle})

    async def check(self) -> None:
        """See whether the lanes still stand where we left them: a Redis that lost its tail is gone back to."""
        found = await checkpoints(self._store, self.view, self.fences)
        moved: list[int] = []
        for lane, checkpoint in found.items():
            if checkpoint is None or checkpoint.epoch != self._epoch:
                raise ViewLost(f"lane {lane} of generation {self.view.generation} is lost")
            if checkpoint.fence > self.fences[lane]:
                raise Fenced(f"lane {lane} has another owner")
            if checkpoint.position != self.stored[lane]:
                moved.append(lane)
                self._stand(lane, checkpoint.position)
        if moved:
            self._overtaken = True
            logger.warning("lanes %s stand elsewhere than they were left, %d first", moved, self.stored[moved[0]])

    async def close(self) -> None:
        """Drop what was read ahead; a projector that was caught up with has nothing to drop."""
        if self._ahead is not None:
            self._ahead[1].cancel()
            await asyncio.gather(self._ahead[1], return_exceptions=True)
            self._ahead = None

    async def _read(self, limit: int) -> Batch:
        """Read the next batch; when there is more, that is read and folded while this one is applied."""
        after, ahead, batch = self.position, self._ahead, NOTHING
        if ahead is not None and ahead[0] == after:
            self._ahead = None
            batch = await ahead[1]
        await self.close()  # else a lane stands elsewhere than we thought
        if not batch.events:  # nothing was there when it was read ahead; what came since has had its wake-up
            batch = await self._read_behind(after, limit)
        if batch.more:
            end = batch.events[-1].position
            self._ahead = end, asyncio.create_task(self._read_behind(end, limit))
        return batch

    async def _read_behind(self, after: int, limit: int) -> Batch:
        """Read a batch in parts, and fold it as if all of it could be projected, for lanes that stand at ``after``.

        Between the parts the answers of the batch before are taken, and what the socket could not take yet is sent.
        """
        reached = dict.fromkeys(self.fences, after)
        events, folding = list[Recorded](), Folding(self.view, reached)
        while True:
            wanted = min(PART, limit - len(events))
            part = await log.read_after(self._engine, events[-1].position if events else after, wanted)
            events += part
            folding.add(part)
            more = len(part) == wanted
            if not more or len(events) == limit or len(folding.users) >= USERS_MAX:
                return Batch(events, await self._with_users(folding.folded(), reached), more)

    async def _fold(self, events: Iterable[Recorded]) -> Folded:
        return await self._with_users(fold(events, self.view, self.reached), self.reached)

    async def _with_users(self, folded: Folded, reached: Mapping[int, int]) -> Folded:
        """Add the rows of the batch's users, as they are now; of what happens to them next there is another event."""
        if not folded.users:
            return folded
        renamed = [number for number, (_, names) in folded.users.items() if names]
        rows, released = await asyncio.gather(
            directory.profiles(self._engine, list(folded.users)), directory.released_logins(self._engine, renamed)
        )
        given_up: dict[int, list[str]] = defaultdict(list)
        for owner, login in released:
            given_up[owner].append(login)
        for number, profile in rows.items():
            add_user(folded, self.view, reached, profile, given_up[number])
        return folded

    async def _apply(self, batches: Mapping[int, LaneBatch], ends: dict[int, int]) -> list[int]:
        """Apply each lane's batch in one round trip, take over where it stands then; give the lanes that refuse."""
        lanes = list(batches)
        outcomes = await asyncio.gather(
            *[self._apply_lane(lane, batches[lane], ends[lane]) for lane in lanes], return_exceptions=True
        )
        failed = [lane for lane, outcome in zip(lanes, outcomes, strict=True) if isinstance(outcome, ResponseError)]
        for lane, outcome in zip(lanes, outcomes, strict=True):
            if lane in failed:
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            self._take_over(lane, *outcome)
        elsewhere = {lane: answer[0] for lane, answer in zip(lanes, outcomes, strict=True) if isinstance(answer, tuple)}
        for word in ("AHEAD", "REWOUND"):
            if found := [lane for lane, outcome in elsewhere.items() if outcome == word]:
                logger.warning("lanes %s are %s, the first at %d", found, word, self.stored[found[0]])
        return failed

    async def _apply_lane(self, lane: int, batch: LaneBatch, end: int) -> tuple[str, int]:
        keys, operations = script_arguments(batch)
        time = self._times[lane] if end > self.stored[lane] else 0
        head = (self.stored[lane], end, self.fences[lane], self._epoch, time)
        while True:
            outcome, position = await self._store.run(APPLY, [self.view.checkpoint(lane), *keys], [*head, operations])
            if outcome != b"HELD":
                return outcome.decode(), int(position)
            await asyncio.sleep(HELD_S)

    def _take_over(self, lane: int, outcome: str, position: int) -> None:
        match outcome:
            case "OK":
                pass
            case "AHEAD" | "REWOUND":  # someone did it, or Redis lost it: go on from where the lane stands
                self._overtaken = True
            case "FENCED":
                raise Fenced(f"lane {lane} has another owner")
            case _:
                raise ViewLost(f"lane {lane} of generation {self.view.generation} is {outcome}")
        self._stand(lane, position)
        self.written.add(lane)

    def _stand(self, lane: int, position: int) -> None:
        self.stored[lane] = self.reached[lane] = position

    async def _isolate(self, lane: int, events: Sequence[Recorded], end: int) -> None:
        """The lane refuses its batch: find what is at fault, park the pairs concerned, and apply the rest."""
        if await self._apply({lane: LaneBatch()}, {lane: self.stored[lane]}):
            raise Broken(f"lane {lane} takes nothing at all")  # and so no event is at fault
        batch = (await self._fold(events)).lanes[lane]
        refused = await self._refused(lane, batch.operations)
        await self._aside.park(culprits(self.view, refused, events))
        rest = await self._aside.in_the_clear(events)
        batch = (await self._fold(rest)).lanes.get(lane, LaneBatch())
        if await self._apply({lane: batch}, {lane: end}):
            raise Broken(f"lane {lane} refuses what is left after parking")

    async def _refused(self, lane: int, operations: list[Operation]) -> list[tuple[Operation, str]]:
        """Find by halves which operations the lane refuses, and why, without moving its checkpoint.

        Operations only set and remove, so what a part has written, the rest of the batch writes again.
        """
        refused: list[tuple[Operation, str]] = []
        left = [operations]
        while left:
            part = left.pop()
            try:
                self._take_over(lane, *await self._apply_lane(lane, LaneBatch(part), self.stored[lane]))
            except ResponseError as error:
                # Of a key of another type each entry is refused alike.
                smaller = () if str(error).startswith("WRONGTYPE") and len(part) == 1 else halves(part)
                left += smaller
                refused += [] if smaller else [(part[0], str(error))]
            if len(refused) > PARKED_MAX:
                raise Broken(f"lane {lane} refuses too much, the last: {refused[-1:]}")
        return refused


async def is_of(engine: Engine, found: Mapping[int, Checkpoint | None], epoch: str) -> bool:
    """Whether lanes with these checkpoints are all there and were made from this log as it is now."""
    there = [checkpoint for checkpoint in found.values() if checkpoint is not None]
    if len(there) < len(found) or any(checkpoint.epoch != epoch for checkpoint in there):
        return False
    stamps = {checkpoint.position: checkpoint.stamp for checkpoint in there if checkpoint.stamp}
    return not stamps or await log.recorded_at(engine, stamps) == stamps


def culprits(view: View, refused: Iterable[tuple[Operation, str]], events: Iterable[Recorded]) -> list[Culprit]:
    """Give the events that these operations come from, and why each is refused, oldest first."""
    of_pairs: dict[tuple[int, int], str] = {}
    for operation, reason in refused:
        number = operation.number
        names = operation.values[operation.name == "ZADD" :: 1 + (operation.name == "ZADD")]
        if operation.key == view.following(number):
            of_pairs |= {(number, number_of(str(name))): reason for name in names}
        elif operation.key == view.followers(number):
            of_pairs |= {(number_of(str(name)), number): reason for name in names}
        else:
            of_pairs[number, number] = reason
    pairs = [(recorded, of_pairs.get((recorded.subject, recorded.object))) for recorded in events]
    return [(recorded, reason) for recorded, reason in pairs if reason is not None]


def whole_groups(view: View, lanes: Iterable[int]) -> list[int]:
    """The groups of a view of which all lanes are among these, in order."""
    there = set(lanes)
    missing = {group_of(lane) for lane in range(view.lanes) if lane not in there}
    return sorted({group_of(lane) for lane in there} - missing)
