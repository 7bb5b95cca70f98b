"""First look at a batch of users, by digest: which cells may differ from the log.

Lists are read together with the position of their partition, and Postgres folds the log at exactly that position: equal
digests prove equal lists. Rows are compared as they are now, so a cell that differs may only be newer than its
partition. ``expected.examine`` decides.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from redis.exceptions import ResponseError

from commands.db.postgres import Engine
from commands.log import fold
from commands.profiles import read_profiles
from commands.users import Side
from projections.client.client import RedisClient
from projections.keys import View
from projections.verify import cells
from projections.verify.cells import Cell, CellCommand, Reading, digest_of, read_partition
from projections.verify.expected import LeftOut, value_of_user
from projections.verify.large_lists import compare_large, unequal_entries
from projections.verify.limits import VerifyLimits

BOTH_SIDES: Final[tuple[Side, Side]] = ("following", "followers")

ListReadings = dict[tuple[Side, int], Reading]


class Suspects:
    """Finds the suspects among users of one view; counts the entries that it has compared."""

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        view: View,
        left_out: LeftOut,
        limits: VerifyLimits,
        scripts: asyncio.Semaphore,
    ) -> None:
        """``scripts`` bounds the script calls that Redis has to do at a time."""
        self._engine, self._redis, self._view = engine, redis, view
        self._limits, self._scripts = limits, scripts
        self._skipped = left_out.skipped
        self._parked: dict[tuple[Side, int], set[int]] = defaultdict(set)
        for subject, object_ in left_out.pairs:
            self._parked["following", subject].add(object_)
            self._parked["followers", object_].add(subject)
        self.entries = 0

    async def find(self, numbers: Sequence[int]) -> AsyncIterator[list[Cell]]:
        """Yield the suspects among these users' lists, their own cells, and the look-ups of their ids and logins."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            groups[self._view.partition_of(number)].append(number)
        lists: ListReadings = {}
        own: dict[Cell, Reading] = {}
        for some_lists, some_own in await asyncio.gather(*[self._read(*group) for group in groups.items()]):
            lists |= some_lists
            own |= some_own
        large = [one for one, reading in lists.items() if self._is_large(one, reading)]
        for side, number in large:
            yield await self._compare_large(side, number)
        small = {one: reading for one, reading in lists.items() if one not in large}
        yield [*await self._compare_small(small), *await self._compare_rows(numbers, own)]

    def _is_large(self, one: tuple[Side, int], reading: Reading) -> bool:
        """Return whether a list is read in slices: a long one, or one with entries to be left out."""
        if isinstance(reading.answer, ResponseError):
            return False
        return len(reading.answer) > 2 * self._limits.entries or one in self._parked

    async def _read(self, partition: int, numbers: Sequence[int]) -> tuple[ListReadings, dict[Cell, Reading]]:
        lists = [(side, number) for number in numbers for side in BOTH_SIDES]
        own = [cell for number in numbers for cell in cells.user_cells(self._view, number)]
        rank = (0, self._limits.entries, "WITHSCORES")
        commands = [CellCommand("ZRANGE", cells.list_key(self._view, *one), rank) for one in lists]
        commands += [cells.read_command(cell) for cell in own]
        async with self._scripts:
            readings = await read_partition(self._redis, self._view, partition, commands)
        return dict(zip(lists, readings, strict=False)), dict(zip(own, readings[len(lists) :], strict=True))

    async def _compare_large(self, side: Side, number: int) -> list[Cell]:
        large = await compare_large(
            self._engine,
            self._redis,
            self._view,
            side,
            number,
            parked=self._parked.get((side, number), set()),
            skipped=self._skipped,
            slice_size=self._limits.slice,
        )
        self.entries += large.entries
        return large.suspects

    async def _compare_small(self, lists: ListReadings) -> list[Cell]:
        suspects: list[Cell] = []
        sides: dict[Side, dict[int, Reading]] = {side: {} for side in BOTH_SIDES}
        for (side, number), reading in lists.items():
            if isinstance(reading.answer, ResponseError):
                suspects.append(cells.list_cell(self._view, side, number))
            else:
                sides[side][number] = reading
        for side in BOTH_SIDES:
            suspects += await self._compare_digests(side, sides[side])
        return suspects

    async def _compare_digests(self, side: Side, lists: Mapping[int, Reading]) -> list[Cell]:
        self.entries += sum(len(reading.answer) for reading in lists.values()) // 2
        positions = {number: reading.position for number, reading in lists.items()}
        expected = await fold.read_digests(self._engine, side, positions, self._skipped)
        differing = [number for number, reading in lists.items() if digest_of(reading.answer) != expected.get(number)]
        if not differing:
            return []
        positions = {number: positions[number] for number in differing}
        entries = await fold.read_entries(self._engine, side, positions, skipped=self._skipped)
        return [
            cell
            for number in differing
            for cell in unequal_entries(self._view, side, number, lists[number].answer, entries[number])
        ]

    async def _compare_rows(self, numbers: Sequence[int], own: Mapping[Cell, Reading]) -> list[Cell]:
        profiles = await read_profiles(self._engine, numbers)
        suspects = [
            cell
            for cell, reading in own.items()
            if cells.value_of(cell, reading.answer) != value_of_user(cell, profiles.get(cell.number or 0))
        ]
        look_ups = {
            cell: None if profile.erased else str(number)
            for number, profile in profiles.items()
            for cell in cells.look_up_cells(self._view, profile)
        }
        if look_ups:
            held = await self._get([cell.key for cell in look_ups])
            pairs = zip(look_ups.items(), held, strict=True)
            suspects += [cell for (cell, expected), found in pairs if found != expected]
        return suspects

    async def _get(self, keys: list[str]) -> list[str | None]:
        try:
            raw = await self._redis.get_many(keys)
        except ResponseError:  # one of them has another type: let all be examined
            return [cells.OTHER_TYPE] * len(keys)
        return [None if text is None else cells.decode_text(text) for text in raw]
