"""Bounds of a snapshot: how much at a time."""

from __future__ import annotations

from typing import Final

import msgspec


class SnapshotLimits(msgspec.Struct, frozen=True):
    """Bounds of a snapshot; together they keep it to some 30 MB, and each script call under 3 ms."""

    # Slices of the log that are read at a time, while one is sorted.
    reads_ahead: int = 2
    # Events that are written to the file at once. A bucket's part of them is one read later.
    write_events: int = 50_000
    # Writes, about. More events are written at once instead, since where the buckets of each write begin is in memory.
    writes_max: int = 1_000
    # Records of a bucket: to fold them takes some 10 MB and 20 ms.
    bucket_records: int = 50_000
    # Of one script call.
    part_bytes: int = 64_000
    # How often the progress is noted for `follows status` and the callers that wait for the view.
    noted_every_s: float = 1.0


SNAPSHOT_LIMITS: Final = SnapshotLimits()
