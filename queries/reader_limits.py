"""How long a reader waits, and how much it keeps."""

from __future__ import annotations

import msgspec

from queries.long_lists import LongListLimits


class ReaderLimits(msgspec.Struct, frozen=True):
    """Time limits and sizes of a reader."""

    # A process may go on with the view it knows for this long after a switch; the old view stays whole for longer.
    view_age_max_s: float = 0.25
    # In a cluster, the pointer's node may be unreachable while the other nodes answer. Processes then go on with the
    # view they know. That is safe: a switch retires the old view's partitions, so that a read of them returns None and
    # never an old answer. It must end some time: a partition whose own node was unreachable at the switch is not
    # retired.
    pointer_timeout_s: float = 0.05
    pointer_outage_max_s: float = 30.0
    # A caller waits this long for a view that has not reached the position of their own write.
    min_position_wait_s: float = 1.0
    # A partition that has lost writes is read again this often. A worker notices the loss within a second and repairs
    # it in milliseconds.
    lost_writes_poll_s: float = 0.02
    # How often the views are read while a caller waits, without a worker's message.
    poll_s: float = 0.25
    # The longest list that is read as a whole, to sort it; no person follows that many users by hand.
    followed_max: int = 100_000
    long_lists: LongListLimits = LongListLimits()
