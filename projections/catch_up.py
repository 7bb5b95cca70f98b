"""The catch-up loop: read the log behind the lowest checkpoint, fold, apply to every touched lane. Live and rebuild
use the same loop; they differ in the view and the size of a batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from commands import directory, log
from commands.errors import FollowsError
from commands.postgres import Engine
from projections.fold import Folded, LaneBatch, add_user, fold, script_arguments
from projections.generations import checkpoints
from projections.keys import View, group_of
from projections.store import Store, load_script

logger: Final = logging.getLogger(__name__)

APPLY: Final = load_script("projections", "apply.lua", reads=False)
# A live batch takes some 50 ms: small enough to be seen soon, large enough to catch up fast.
LIVE_BATCH: Final = 2_000
REBUILD_BATCH: Final = 10_000


class Fenced(FollowsError):
    """Another worker owns these lanes now; this one must stop."""


class ViewLost(FollowsError):
    """A checkpoint is missing, or is of another log: the view must be built anew."""


class Projector:
    """Brings a set of lanes of one view up to the log; holds where each of them stands.

    ``stored`` is what the lane's checkpoint says. ``reached`` may be beyond it: the events in between have been read
    and do not touch the lane, which ``settle`` writes down when there is time.
    """

    def __init__(self, engine: Engine, store: Store, view: View, fences: dict[int, int], epoch: UUID) -> None:
        """``fences`` maps each lane to project to the fence of the lease it is held by."""
        self._engine, self._store, self._epoch = engine, store, str(epoch)
        self.view = view
        self.fences = fences
        self.stored: dict[int, int] = {}
        self.reached: dict[int, int] = {}

    @property
    def position(self) -> int:
        """The log position that every lane has reached."""
        return min(self.reached.values())

    async def load(self) -> None:
        """Read where the lanes stand, and let our fence be known there; raises ViewLost, Fenced, StoreUnavailable."""
        found = await checkpoints(self._store, self.view, self.fences)
        for lane, checkpoint in found.items():
            if checkpoint is None or checkpoint.epoch != self._epoch:
                raise ViewLost(f"lane {lane} of generation {self.view.generation} is lost")
            self.stored[lane] = self.reached[lane] = checkpoint.position
        await self._apply({lane: LaneBatch() for lane in self.fences}, self.stored)

    async def step(self, limit: int = LIVE_BATCH) -> int:
        """Project the next batch; give how many events were read, 0 when the log's end is reached."""
        events = await log.read_after(self._engine, self.position, limit)
        if not events:
            return 0
        end = events[-1].position
        folded = fold(events, self.view, self.reached)
        await self._add_users(folded)
        await self._apply(folded.lanes, dict.fromkeys(folded.lanes, end))
        for lane, position in self.reached.items():
            if lane not in folded.lanes:
                self.reached[lane] = max(position, end)
        return len(events)

    async def settle(self) -> None:
        """Write down how far the lanes have come that nothing touched."""
        idle = {lane: LaneBatch() for lane, at in self.reached.items() if at > self.stored[lane]}
        if idle:
            await self._apply(idle, {lane: self.reached[lane] for lane in idle})

    async def check(self) -> None:
        """See whether the lanes still stand where we left them: a Redis that lost its tail is gone back to."""
        found = await checkpoints(self._store, self.view, self.fences)
        for lane, checkpoint in found.items():
            if checkpoint is None or checkpoint.epoch != self._epoch:
                raise ViewLost(f"lane {lane} of generation {self.view.generation} is lost")
            if checkpoint.fence > self.fences[lane]:
                raise Fenced(f"lane {lane} has another owner")
            if checkpoint.position != self.stored[lane]:
                logger.warning("lane %d stands at %d, not at %d", lane, checkpoint.position, self.stored[lane])
                self.stored[lane] = self.reached[lane] = checkpoint.position

    async def _add_users(self, folded: Folded) -> None:
        if not folded.users:
            return
        renamed = [number for number, (_, names) in folded.users.items() if names]
        rows, released = await asyncio.gather(
            directory.profiles(self._engine, list(folded.users)), directory.released_logins(self._engine, renamed)
        )
        for number, profile in rows.items():
            old = [login for owner, login in released if owner == number]
            add_user(folded, self.view, self.reached, profile, old)

    async def _apply(self, batches: dict[int, LaneBatch], ends: dict[int, int]) -> None:
        """Apply each lane's batch in one round trip, and take over where each lane stands then."""
        lanes = list(batches)
        outcomes = await asyncio.gather(*[self._apply_lane(lane, batches[lane], ends[lane]) for lane in lanes])
        for lane, (outcome, position) in zip(lanes, outcomes, strict=True):
            self._take_over(lane, outcome.decode(), int(position))

    async def _apply_lane(self, lane: int, batch: LaneBatch, end: int) -> tuple[bytes, bytes]:
        keys, operations = script_arguments(self.view, batch)
        head = (self.stored[lane], end, self.fences[lane], self._epoch)
        outcome: tuple[bytes, bytes] = await self._store.run(
            APPLY, [self.view.checkpoint(lane), *keys], [*head, *operations]
        )
        return outcome

    def _take_over(self, lane: int, outcome: str, position: int) -> None:
        match outcome:
            case "OK":
                pass
            case "AHEAD" | "REWOUND":  # someone did it, or Redis lost it: go on from where the lane stands
                logger.warning("lane %d is %s, at %d", lane, outcome, position)
            case "FENCED":
                raise Fenced(f"lane {lane} has another owner")
            case _:
                raise ViewLost(f"lane {lane} of generation {self.view.generation} is {outcome}")
        self.stored[lane] = self.reached[lane] = position


def groups_of(lanes: Iterable[int]) -> list[int]:
    """The groups that these lanes belong to, in order."""
    return sorted({group_of(lane) for lane in lanes})
