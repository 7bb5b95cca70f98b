"""The users that have events of their own, for a snapshot: eight bytes for each, however many events there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from projections.rebuild.rdb import Ints

# New marks wait until they are as many as the others, and at least this many: each is sorted a few times at most.
MERGED_MIN: Final = 50_000


class UserMarks:
    """Numbers of users, each with whether more than the broadcast may have changed."""

    def __init__(self) -> None:
        # Sorted; a number doubled, and 1 more if more than the broadcast may have changed.
        self._marks = np.empty(0, np.int64)
        self._new: list[Ints] = []
        self._waiting = 0

    def add(self, numbers: Ints, have_names: Ints) -> None:
        """Add the users of some events; ``have_names`` has 1 for those that may change more than the broadcast."""
        self._new.append(np.unique(2 * numbers + have_names))
        self._waiting += len(self._new[-1])
        if self._waiting > max(MERGED_MIN, len(self._marks)):
            self._merge()

    def count(self) -> int:
        """Return about how many users there are."""
        self._merge()
        return len(self._marks)

    def slices(self, size: int) -> Iterator[dict[int, bool]]:
        """Yield number -> whether more than the broadcast may have changed, of up to ``size`` users at a time."""
        self._merge()
        for begin in range(0, len(self._marks), size):
            marks = self._marks[begin : begin + size + 1]
            numbers = marks >> 1
            # A user may have both marks; the one with names is behind the other.
            is_last = np.append(numbers[1:] != numbers[:-1], True)[:size]
            marks = marks[:size][is_last]
            yield dict(zip((marks >> 1).tolist(), (marks & 1).astype(bool).tolist(), strict=True))

    def _merge(self) -> None:
        if not self._new:
            return
        merged = np.concatenate([self._marks, *self._new])
        self._new, self._waiting = [], 0
        merged.sort()
        self._marks = merged[np.append(merged[1:] != merged[:-1], True)]
