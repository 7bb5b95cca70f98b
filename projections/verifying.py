"""Comparing a view with the log while writes go on: first digests, then, where they differ, cell by cell.

Nothing is held up for it. A script reads lists together with the position of their lane, in parts small enough that
nobody waits; Postgres folds the log at exactly that position; equal digests prove equal lists. Where they are not
equal, or a user's row does not look like his profile, the cells in question are read once more and judged by
``examining``, which alone decides what a difference is. So a race can cost a second look, never a false alarm.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from commands import census, directory, folds, log
from commands.folds import Side
from commands.postgres import Engine
from projections import cells
from projections.cells import Cell, Peeked, Read, digest_of, peek
from projections.examining import CELLS_MAX, Difference, examine, left_out, own_value
from projections.generations import checkpoints
from projections.keys import View
from projections.large_lists import compare_large, unequal_entries
from projections.store import Store
from projections.strays import stray_cells

# Users compared together: a script call per lane, a query per side.
USERS: Final = 1_000
# A longer list is read in parts of its own, so that a batch never holds more than this times its users.
ENTRIES_MAX: Final = 500
# Batches under way: one is read while Postgres folds another. More would only make live readers wait.
BATCHES: Final = 3
# Scripts of ours that Redis may have before it at a time; each takes up to 3 ms of its time.
SCRIPTS: Final = 2
# How long cells that wait for their lane are looked at again, and how many of them are kept for that.
PATIENCE_S: Final = 5.0
LOOK_AGAIN_S: Final = 0.05
PENDING_MAX: Final = 100_000
# A lane that lacks an event for so long is not just busy.
BEHIND_S: Final = 10.0

SIDES: Final[tuple[Side, Side]] = ("following", "followers")
Found = Callable[[list[Difference]], Awaitable[None]]


class Verdict(msgspec.Struct):
    """What a comparison came to. ``unsettled`` cells could not be judged, as their lanes did not come to their rows;
    pairs with parked events, counted in ``parked``, are left out. ``behind`` maps lanes to seconds."""

    generation: int
    users: int = 0
    entries: int = 0
    differences: int = 0
    unsettled: int = 0
    parked: int = 0
    behind: dict[int, float] = msgspec.field(default_factory=dict)
    reached: int = 0

    @property
    def clean(self) -> bool:
        """Nothing differs, and everything could be judged."""
        return not (self.differences or self.unsettled or self.behind)


async def verify(
    engine: Engine,
    store: Store,
    view: View,
    found: Found,
    *,
    numbers: Sequence[int] | None = None,
    also: Sequence[Cell] = (),
    patience_s: float = PATIENCE_S,
    between: Callable[[Verdict], Awaitable[None]] | None = None,
) -> Verdict:
    """Compare the views of ``numbers`` and the cells in ``also``, or all that is in the generation, with the log.

    ``found`` is given the differences as they turn up, and ``between`` the verdict so far after each batch. Any
    generation will do, a live one while it is projected, and one that is not live while nobody projects it.
    """
    work = Comparison(engine, store, view, found, between)
    await work.look_at_lanes()
    chunks = _chunks(engine, numbers)
    await _together([work.compare_chunks(chunks) for _ in range(BATCHES)])
    if numbers is None:
        async for strays in stray_cells(engine, store, view):
            await work.judge(strays)
    await work.judge(also)
    await work.judge_pending(patience_s)
    await work.look_for_lag()
    return work.verdict


async def differences(
    engine: Engine, store: Store, view: View, between: Callable[[], Awaitable[None]] | None = None
) -> int:
    """Compare a generation that is not projected now; give how many differences there are.

    What has changed since it was filled counts as no difference: its lanes will come to it.
    """

    async def ignore(_: list[Difference]) -> None:
        pass

    async def tell(_: Verdict) -> None:
        if between is not None:
            await between()

    return (await verify(engine, store, view, ignore, patience_s=0.0, between=tell)).differences


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of it; when one fails, stop the others and raise what it raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _chunks(engine: Engine, numbers: Sequence[int] | None) -> AsyncIterator[list[int]]:
    if numbers is not None:
        for start in range(0, len(numbers), USERS):
            yield list(numbers[start : start + USERS])
        return
    after = 0
    while chunk := await census.numbers_after(engine, after, USERS):
        yield chunk
        after = chunk[-1]


class Comparison:
    """One run of ``verify``."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        view: View,
        found: Found,
        between: Callable[[Verdict], Awaitable[None]] | None,
    ) -> None:
        self.engine, self.store, self.view = engine, store, view
        self.verdict = Verdict(view.generation)
        self._found, self._between = found, between
        self._head = 0
        self._skipped: list[int] = []
        self._scripts = asyncio.Semaphore(SCRIPTS)
        self._next = asyncio.Lock()
        self._lanes: set[int] = set()
        self._pending: list[Cell] = []
        self._parked: dict[tuple[Side, int], set[int]] = defaultdict(set)

    async def look_at_lanes(self) -> None:
        """See which lanes can be compared at all: a lost one, or one of another log, is a difference by itself.

        Lanes first, then the log: what a lane has reached meanwhile must not seem to lie in the future.
        """
        found = await checkpoints(self.store, self.view, range(self.view.lanes))
        head = await log.head(self.engine)
        times = await log.recorded_at(self.engine, {at.position for at in found.values() if at is not None})
        self._head = head.position
        bad: list[Difference] = []
        for lane, at in found.items():
            cell = Cell("lane", lane, self.view.checkpoint(lane))
            if at is None:
                bad.append(Difference(cell, "a checkpoint", None))
            elif at.epoch != str(head.epoch):
                bad.append(Difference(cell, f"log {head.epoch}", f"log {at.epoch}"))
            elif at.position > head.position:
                bad.append(Difference(cell, f"at most position {head.position}", str(at.position)))
            elif at.stamp and at.stamp != times.get(at.position):
                ought = f"position {at.position} recorded at {times.get(at.position)}"
                bad.append(Difference(cell, ought, f"recorded at {at.stamp}"))
            else:
                self._lanes.add(lane)
        await self._report(bad)
        aside = await left_out(self.engine)
        for subject, object_ in aside.pairs:
            self._parked["following", subject].add(object_)
            self._parked["followers", object_].add(subject)
        self._skipped = aside.skipped
        self.verdict.parked = len(aside.pairs)

    async def compare_chunks(self, chunks: AsyncIterator[list[int]]) -> None:
        """Take chunk after chunk until there are no more; several tasks share the chunks."""
        while True:
            async with self._next:
                numbers = await anext(chunks, None)
            if numbers is None:
                return
            await self.compare([number for number in numbers if self.view.lane_of(number) in self._lanes])
            self.verdict.reached = max(self.verdict.reached, numbers[-1])
            if self._between is not None:
                await self._between(self.verdict)

    async def compare(self, numbers: Sequence[int]) -> None:
        """Compare these users: their lists, their own cells, and the look-ups of their ids and logins."""
        by_lane: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            by_lane[self.view.lane_of(number)].append(number)
        readings = await asyncio.gather(*[self._read(lane, members) for lane, members in by_lane.items()])
        lists: dict[tuple[Side, int], Peeked] = {}
        owns: dict[Cell, Peeked] = {}
        for some_lists, some_owns in readings:
            lists |= some_lists
            owns |= some_owns
        self.verdict.users += len(numbers)
        suspects = [*await self._compare_lists(lists), *await self._compare_rows(numbers, owns)]
        await self.judge(suspects)

    async def _read(
        self, lane: int, numbers: Sequence[int]
    ) -> tuple[dict[tuple[Side, int], Peeked], dict[Cell, Peeked]]:
        lists = [(side, number) for number in numbers for side in SIDES]
        owns = [cell for number in numbers for cell in cells.own_cells(self.view, number)]
        reads = [Read("ZRANGE", cells.list_key(self.view, *one), (0, ENTRIES_MAX, "WITHSCORES")) for one in lists]
        reads += [cells.reading(cell) for cell in owns]
        async with self._scripts:
            peeked = await peek(self.store, self.view, lane, reads)
        return (
            dict(zip(lists, peeked, strict=False)),
            dict(zip(owns, peeked[len(lists) :], strict=True)),
        )

    async def _compare_lists(self, lists: dict[tuple[Side, int], Peeked]) -> list[Cell]:
        small: dict[Side, dict[int, Peeked]] = {"following": {}, "followers": {}}
        suspects: list[Cell] = []
        for (side, number), peeked in lists.items():
            if isinstance(peeked.answer, ResponseError):
                suspects.append(cells.list_cell(self.view, side, number))
            elif len(peeked.answer) > 2 * ENTRIES_MAX or (side, number) in self._parked:
                parked = self._parked.get((side, number), set())
                large = await compare_large(
                    self.engine, self.store, self.view, side, number, parked=parked, skipped=self._skipped
                )
                self.verdict.entries += large.entries
                await self.judge(large.suspects)
            else:
                small[side][number] = peeked
        for side in SIDES:
            suspects += await self._compare_small(side, small[side])
        return suspects

    async def _compare_small(self, side: Side, lists: dict[int, Peeked]) -> list[Cell]:
        self.verdict.entries += sum(len(peeked.answer) for peeked in lists.values()) // 2
        positions = {number: at.position for number, at in lists.items()}
        ought = await folds.digests(self.engine, side, positions, self._skipped)
        differing = {number: at for number, at in lists.items() if digest_of(at.answer) != ought.get(number)}
        if not differing:
            return []
        positions = {number: at.position for number, at in differing.items()}
        entries = await folds.entries(self.engine, side, positions, skipped=self._skipped)
        return [
            cell
            for number, at in differing.items()
            for cell in unequal_entries(self.view, side, number, at.answer, entries[number])
        ]

    async def _compare_rows(self, numbers: Sequence[int], owns: dict[Cell, Peeked]) -> list[Cell]:
        profiles = await directory.profiles(self.engine, numbers)
        suspects = [
            cell
            for cell, (_, answer) in owns.items()
            if cells.value_of(cell, answer) != own_value(cell, profiles.get(cell.number or 0))
        ]
        names: dict[Cell, str | None] = {}
        for number, profile in profiles.items():
            names[cells.id_cell(self.view, profile.id, number)] = None if profile.erased else str(number)
            if not profile.erased:
                names[cells.login_cell(self.view, profile.login, number)] = str(number)
        if names:
            held = await self._get([cell.key for cell in names])
            suspects += [cell for (cell, ought), have in zip(names.items(), held, strict=True) if have != ought]
        return suspects

    async def _get(self, keys: list[str]) -> list[str | None]:
        try:
            raw = await self.store.get_many(keys)
        except ResponseError:  # one of them is of another type: let all be judged
            return [cells.OTHER_TYPE] * len(keys)
        return [None if text is None else cells.decoded(text) for text in raw]

    async def judge(self, suspects: Iterable[Cell]) -> None:
        """Look at these cells exactly; report what differs, keep what is pending for later."""
        by_lane: dict[int, list[Cell]] = defaultdict(list)
        for cell in dict.fromkeys(suspects):
            if cell.lane is None:
                await self._report([Difference(cell, None, "a key")])
            elif cell.lane in self._lanes:
                by_lane[cell.lane].append(cell)
        for lane, some in by_lane.items():
            for start in range(0, len(some), CELLS_MAX):
                async with self._scripts:
                    examined = await examine(self.engine, self.store, self.view, lane, some[start : start + CELLS_MAX])
                await self._report(examined.differences)
                room = max(0, PENDING_MAX - len(self._pending))
                self._pending += examined.pending[:room]
                self.verdict.unsettled += len(examined.pending[room:])

    async def judge_pending(self, patience_s: float) -> None:
        """Look again at the cells whose rows were newer than their lanes, until the lanes have come to them."""
        end = time.monotonic() + patience_s
        while self._pending and time.monotonic() < end:
            await asyncio.sleep(LOOK_AGAIN_S)
            again, self._pending = self._pending, []
            await self.judge(again)
        self.verdict.unsettled += len(self._pending)

    async def look_for_lag(self) -> None:
        """See which lanes lack, since long, an event that was there when the comparison began."""
        now = (await log.head(self.engine)).now
        found = await checkpoints(self.store, self.view, self._lanes)
        lagging = {lane: at.position for lane, at in found.items() if at is not None and at.position < self._head}
        since = {position: await log.recorded_after(self.engine, position) for position in set(lagging.values())}
        for lane, position in lagging.items():
            lag_s = (now - (since[position] or now)) / 1e6
            if lag_s > BEHIND_S:
                self.verdict.behind[lane] = round(lag_s, 1)

    async def _report(self, some: list[Difference]) -> None:
        if some:
            self.verdict.differences += len(some)
            await self._found(some)
