"""Follows of the log in a temporary file, in buckets that are small enough to be folded in memory.

The file has no name: it goes with the process, however that ends. TMPDIR says where it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from tempfile import TemporaryFile
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commands.log.arrays import FOLLOWED, NOTIFIED, OTHER_FORM, POSTGRES_EPOCH_US, EventArrays
from projections.errors import NoSnapshot
from projections.keys import View
from projections.rebuild.limits import SNAPSHOT_LIMITS, SnapshotLimits
from projections.rebuild.rdb import Ints
from projections.rebuild.user_marks import UserMarks

# Records, one for each side of a follow and its changes, with (list, other user, score or -1); a list is the number of
# its user, doubled, and 1 more for followers. 24 bytes each.
FOLLOWING: Final = 0
FOLLOWERS: Final = 1
RECORD_BYTES: Final = 24
# Numbers of users are packed into listpacks and skiplists as members of 64 bits, and Lua holds their scores as doubles.
NUMBER_DIGITS_MAX: Final = 15
SCORE_BITS_MAX: Final = 53

# Elements of an array of bigint in Postgres' binary form begin after a head of 20 bytes.
_HEAD: Final = 20
_ELEMENT: Final = np.dtype([("bytes", ">i4"), ("value", ">i8")])
# Spreads numbers that have a pattern.
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)


class Spill:
    """The records of a view's ``partitions``, and the ``users`` that have events; use ``with``."""

    def __init__(
        self, view: View, partitions: Collection[int], events: int, limits: SnapshotLimits = SNAPSHOT_LIMITS
    ) -> None:
        """``events`` is about how many there will be. Raises NoSnapshot when the file cannot be made."""
        self._partitions, self._limits = view.partitions, limits
        self._is_wanted = np.zeros(view.partitions, bool)
        self._is_wanted[list(partitions)] = True
        self.buckets = max(1, -(-2 * events // (view.partitions * limits.bucket_records)))
        self._waiting: list[Ints] = []
        self._waiting_events = 0
        self.users = UserMarks()
        self._write_events = max(limits.write_events, events // limits.writes_max)
        # Of each write, its place in the file, and where in it the records of each bucket of each partition begin and
        # the last ones end; all counted in records.
        self._writes: list[tuple[int, NDArray[np.uint32]]] = []
        self._end = 0
        try:
            self._file = TemporaryFile()  # noqa: SIM115 - closed in __exit__
        except OSError as error:
            raise NoSnapshot(f"no temporary file can be made: {error}") from error

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with suppress(OSError):  # it tries again to write what had no room; it is closed all the same
            self._file.close()

    def add(self, arrays: EventArrays) -> None:
        """Add the next events. Raises NoSnapshot when one of them cannot be in a snapshot, or the file has no room."""
        if not arrays.events:
            return
        subjects, objects, times, values = (_numbers(column) for column in arrays[3:])
        if (values == OTHER_FORM).any():
            raise NoSnapshot("the log has an event that this version cannot read in one piece with others")
        if max(subjects.max(), objects.max()) >= 10**NUMBER_DIGITS_MAX or min(subjects.min(), objects.min()) < 0:
            raise NoSnapshot(f"the number of a user has more than {NUMBER_DIGITS_MAX} digits")
        at_event = 2 * (times + POSTGRES_EPOCH_US)
        scores = np.where(values == FOLLOWED, at_event, np.where(values == NOTIFIED, at_event + 1, values))
        if scores.max() >= 2**SCORE_BITS_MAX or scores.min() < -1:
            raise NoSnapshot("the time of a follow is out of bounds")
        own = subjects == objects
        if own.any():
            self.users.add(subjects[own], values[own])
        follows = ~own
        sides = (subjects, objects, FOLLOWING), (objects, subjects, FOLLOWERS)
        for of, other, side in sides:
            records = np.stack((2 * of + side, other, scores), axis=1)
            self._waiting.append(records[follows & self._is_wanted[of % self._partitions]])
        self._waiting_events += arrays.events
        if self._waiting_events >= self._write_events:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises NoSnapshot when the file has no room."""
        if not self._waiting:
            return
        records = np.concatenate(self._waiting)
        of = records[:, 0] >> 1
        places = of % self._partitions * self.buckets + _spread(of, self.buckets)
        order = np.argsort(places, kind="stable")
        begins = np.searchsorted(places[order], np.arange(self._partitions * self.buckets + 1))
        self._writes.append((self._end, begins.astype(np.uint32)))
        self._waiting, self._waiting_events, self._end = [], 0, self._end + len(records)
        try:
            self._file.write(records[order].data)
            self._file.flush()
        except OSError as error:
            raise NoSnapshot(f"the temporary file has no room: {error}") from error

    def read(self, partition: int, bucket: int) -> Iterator[Ints]:
        """Yield the records of a bucket in the log's order, in parts if they are many more.

        Parts have no pair in common: a list of more entries than a part holds comes in several parts.
        """
        place = partition * self.buckets + bucket
        pieces = [(at + int(begins[place]), at + int(begins[place + 1])) for at, begins in self._writes]
        parts = max(1, round(sum(end - begin for begin, end in pieces) / self._limits.bucket_records))
        for part in range(parts):
            found = [self._read(begin, end) for begin, end in pieces if end > begin] if parts == 1 else []
            if parts > 1:
                for begin, end in pieces:
                    records = self._read(begin, end)
                    found.append(records[_spread(records[:, 1], parts) == part])
            if found:
                yield np.concatenate(found)

    def _read(self, begin: int, end: int) -> Ints:
        size = (end - begin) * RECORD_BYTES
        content = os.pread(self._file.fileno(), size, begin * RECORD_BYTES)
        if len(content) != size:
            raise NoSnapshot("the temporary file is shorter than what was written to it")
        return np.frombuffer(content, np.int64).reshape(-1, 3)


def _numbers(column: bytes) -> Ints:
    return np.frombuffer(column, _ELEMENT, offset=_HEAD)["value"].astype(np.int64)


def _spread(numbers: Ints, count: int) -> Ints:
    """Return for each number which of ``count`` shares of about the same size it is in."""
    return ((numbers.astype(np.uint64) * _MULTIPLIER) >> np.uint64(32)).astype(np.int64) % count
