"""A cache that is bounded in bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A full cache of more entries than SMALL drops this part of itself at once. One entry at a time would cost more with
# each: a dict finds its first entry behind the places of all that were dropped.
_DROPPED_PART: Final = 16
SMALL: Final = 1_000
# About what a dict, a text beside its characters, and a number take.
TEXT_ENTRY_BYTES: Final = 140


class BoundedCache(Generic[K, V]):
    """Entries that take at most ``bytes_max`` together, by ``size_of`` each in bytes; the oldest ones are dropped.

    A value must not be None, which ``touch`` returns for a missing key.
    """

    def __init__(self, bytes_max: int, size_of: Callable[[K, V], int]) -> None:
        self.bytes_max = bytes_max
        self.entries: dict[K, V] = {}
        self.bytes = 0
        # How many entries were dropped for room.
        self.dropped = 0
        # Look-ups, as far as those who look up count them.
        self.hits = self.misses = 0
        self._size_of = size_of

    def look_up(self, key: K) -> V | None:
        """Return an entry and count the look-up; None when there is none."""
        found = self.entries.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def touch(self, key: K) -> V | None:
        """Return an entry, and make it the newest one; None when there is none."""
        found = self.entries.pop(key, None)
        if found is not None:
            self.entries[key] = found
        return found

    def put(self, key: K, value: V) -> None:
        """Put an entry in the place of the one with this key, as the newest; one that has no room is not kept."""
        self.pop(key)
        size = self._size_of(key, value)
        if size <= self.bytes_max:
            self.entries[key] = value
            self.grow(size)

    def grow(self, size: int) -> None:
        """Count ``size`` more bytes for an entry; its ``size_of`` must include them from now on."""
        self.bytes += size
        if self.bytes > self.bytes_max:
            more = self.bytes_max // _DROPPED_PART if len(self.entries) > SMALL else 0
            self._drop_oldest(self.bytes_max - more)

    def pop(self, key: K) -> V | None:
        """Remove an entry and return it; None when there is none."""
        found = self.entries.pop(key, None)
        if found is not None:
            self.bytes -= self._size_of(key, found)
        return found

    def clear(self) -> None:
        """Remove all entries."""
        self.entries.clear()
        self.bytes = 0

    def _drop_oldest(self, bytes_left: int) -> None:
        oldest, over = list[K](), self.bytes - bytes_left
        for key, value in self.entries.items():
            if over <= 0:
                break
            over -= self._size_of(key, value)
            oldest.append(key)
        for key in oldest:
            self.pop(key)
        self.dropped += len(oldest)


def number_cache(bytes_max: int) -> BoundedCache[str, int]:
    """Return a cache of the numbers of texts."""
    return BoundedCache(bytes_max, lambda text, _: TEXT_ENTRY_BYTES + len(text))
