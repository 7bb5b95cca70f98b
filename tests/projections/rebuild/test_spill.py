"""The file of a snapshot: each record comes back once, and the memory beside the file grows in line with the log."""

import struct
import tracemalloc
from collections.abc import Sequence

import numpy as np

from commands.log.arrays import FOLLOWED, EventArrays
from projections.keys import View
from projections.rebuild.limits import SnapshotLimits
from projections.rebuild.spill import Spill

VIEW = View(1, 4)
LIMITS = SnapshotLimits(write_events=50, bucket_records=50, writes_max=20)
BATCH = 500


def column(values: Sequence[int]) -> bytes:
    """Return values as Postgres writes an array of bigint."""
    return bytes(20) + b"".join([struct.pack(">iq", 8, value) for value in values])


def spilled(events: int) -> Spill:
    """Return a file with this many follows, each of another pair."""
    spill = Spill(VIEW, range(VIEW.partitions), events, LIMITS)
    for begin in range(0, events, BATCH):
        numbers = range(begin, begin + BATCH)
        subjects, objects = [2 * number for number in numbers], [2 * number + 1 for number in numbers]
        columns = [column(subjects), column(objects), column([0] * BATCH), column([FOLLOWED] * BATCH)]
        spill.add(EventArrays(BATCH, begin + BATCH, None, *columns))
    spill.flush()
    return spill


def test_records_come_back_once_also_when_writes_have_grown() -> None:
    with spilled(10_000) as spill:
        found = [
            spill.read(partition, bucket) for partition in range(VIEW.partitions) for bucket in range(spill.buckets)
        ]
        lists = np.concatenate([records[:, 0] for parts in found for records in parts])
    assert sorted(lists >> 1) == list(range(20_000))


def test_memory_grows_in_line_with_the_log() -> None:
    """There are more buckets in a longer log, so the number of writes must have a bound."""
    kept = list[int]()
    for events in (10_000, 80_000):
        tracemalloc.start()
        with spilled(events):
            kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert kept[1] < 10 * kept[0]
