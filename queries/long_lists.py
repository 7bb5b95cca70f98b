"""Lists that are read and sorted as a whole: in slices, few at once, and kept for the pages that follow."""

from __future__ import annotations

import asyncio
import heapq
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec

from commands.bounded_cache import BoundedCache
from commands.cache_budget import DEFAULT_BUDGET
from commands.errors import ListsBusy

# Rows of a list that are handled in one turn of the event loop, about a millisecond, and that Redis reads in one
# command. Shorter lists are read in one round trip, without a slot, and not kept.
ROWS_AT_ONCE: Final = 1_000
# Rows that are handled before the time is looked at.
STEP: Final = 250
# Work in one piece, and the pause after it. A pause of 0 is not enough: the HTTP server's thread passes a request on
# only while the event loop waits for something.
WORK_S: Final = 0.001
PAUSE_S: Final = 0.002

# Generation, the user's number, and the attribute that a list is sorted by.
ListKey = tuple[int, int, str]
# A part of an answer; see ``queries.reader``.
_Part = tuple[int, int, int, bytes | None, bool]
_T = TypeVar("_T")


class LongListLimits(msgspec.Struct, frozen=True):
    """How much a process does for long lists."""

    # Lists that are read at once. More would not be faster: they share the process's CPU.
    running_max: int = 1
    # A request for another one waits this long for its turn, and is 503 then.
    wait_s: float = 1.0
    # A kept list shows the follows of its user as they are, and changes of the others' logins and broadcasts so late.
    kept_s: float = 5.0


class SortedList(msgspec.Struct, frozen=True):
    """The users of a list in ascending order of an attribute, each with a value; the last ones have no attribute.

    ``parts`` are those of the read, ``length`` and ``newest`` (its score) tell whether the list itself has changed.
    """

    parts: list[_Part]
    length: int
    newest: bytes
    numbers: array[int]
    values: array[int]
    ranked: int
    made_at: float = 0.0

    def page(self, offset: int, limit: int, *, descending: bool) -> list[tuple[int, int]]:
        """Return (number, value) of a part of the order. Users without the attribute come last in both directions."""
        count, ranked = len(self.numbers), self.ranked
        places: Iterable[int] = range(offset, min(offset + limit, count))
        if descending:
            places = [ranked - 1 - place if place < ranked else count - 1 - (place - ranked) for place in places]
        return [(self.numbers[place], self.values[place]) for place in places]


class LongLists:
    """The slots for reading long lists in one process, and the lists that were sorted last."""

    def __init__(
        self,
        clock: Callable[[], float],
        limits: LongListLimits | None = None,
        bytes_max: int = DEFAULT_BUDGET.share("sorted lists"),
    ) -> None:
        """The longest list takes 1.6 MB of ``bytes_max``."""
        self.limits = limits or LongListLimits()
        self._clock = clock
        self._slots = asyncio.Semaphore(self.limits.running_max)
        self.kept: BoundedCache[ListKey, SortedList] = BoundedCache(bytes_max, lambda _, kept: _size(kept))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it. Raises ListsBusy."""
        try:
            async with asyncio.timeout(self.limits.wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise ListsBusy from None
        try:
            yield
        finally:
            self._slots.release()

    def moment(self) -> float:
        """Return the time that ``made_at`` of a list is compared with, in seconds."""
        return self._clock()

    def find(self, key: ListKey) -> SortedList | None:
        """Return the list that was kept under ``key``, unless it is too old."""
        found = self.kept.touch(key)
        if found is None or self._clock() >= found.made_at + self.limits.kept_s:
            self.kept.misses += 1
            return None
        self.kept.hits += 1
        return found

    def keep(self, key: ListKey, made: SortedList) -> None:
        """Keep a list, and drop others when there is no more room."""
        self.kept.put(key, made)

    def clear(self) -> None:
        """Drop all lists: their numbers may be of another log."""
        self.kept.clear()


def _size(kept: SortedList) -> int:
    return 16 * len(kept.numbers) + 100 * len(kept.parts)


class Pauses:
    """The pauses of a long piece of work, in which other requests are handled."""

    def __init__(self) -> None:
        self._due_at = time.monotonic() + WORK_S

    async def take(self) -> None:
        """Pause if one is due."""
        if time.monotonic() >= self._due_at:
            await asyncio.sleep(PAUSE_S)
            self._due_at = time.monotonic() + WORK_S


async def sort_in_slices(items: list[_T], pauses: Pauses) -> list[_T]:
    """Return ``items`` sorted. Other requests go on between slices; ``list.sort`` would hold them, in a thread, too."""
    runs = []
    for start in range(0, len(items), ROWS_AT_ONCE):
        runs.append(sorted(items[start : start + ROWS_AT_ONCE]))  # type: ignore[type-var]
        await pauses.take()
    if len(runs) <= 1:
        return runs[0] if runs else []
    merged: list[_T] = []
    for count, item in enumerate(heapq.merge(*runs), 1):  # type: ignore[type-var]
        merged.append(item)
        if count % STEP == 0:
            await pauses.take()
    return merged
