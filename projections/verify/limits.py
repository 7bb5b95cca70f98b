"""Bounds of a comparison and of a repair: how much at a time, and for how long."""

from __future__ import annotations

from typing import Final

import msgspec

# Cells that are examined or written together: one script call of a millisecond, one query.
CELLS_MAX: Final = 500


class VerifyLimits(msgspec.Struct, frozen=True):
    """Bounds of a comparison; together they keep each script call under 3 ms, so that readers hardly wait."""

    # Users that are compared together: one script call per partition, one query per side.
    users: int = 1_000
    # A longer list is read in slices, so that a batch holds at most this many entries per user.
    entries: int = 500
    # Entries per slice: about 3 ms of Redis' time.
    slice: int = 4_000
    # Batches at a time: one is read while Postgres folds another. More would only delay readers.
    batches: int = 3
    # Script calls that Redis has to do at a time.
    scripts: int = 2
    cells: int = CELLS_MAX
    # Cells whose row is newer than their partition: how many are kept, how often and for how long they are examined.
    pending: int = 100_000
    pending_retry_s: float = 0.05
    pending_timeout_s: float = 5.0
    # A partition that has lacked an event for longer is reported: it is not just busy.
    lag_s: float = 10.0


class RepairLimits(msgspec.Struct, frozen=True):
    """Bounds of a repair."""

    cells: int = CELLS_MAX
    # A partition that moved, or lost its freeze because deciding took too long, is tried again.
    tries: int = 20


VERIFY_LIMITS: Final = VerifyLimits()
REPAIR_LIMITS: Final = RepairLimits()
