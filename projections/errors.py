"""Errors of the projections; all derive from ``FollowsError``, and those that pass by themselves from ``Unavailable``.

FollowsError
├── ViewLost                a partition of the view has no valid checkpoint: the view must be built again
│   └── LogChanged          the view was made from another log, or from one restored to an older state
├── OtherFeeder             another database feeds this Redis, or views there are of another history of the log
├── Fenced                  another process owns the partition, the pointer or the build lease now
├── BatchRefused            partitions refuse more of a batch than may be parked
├── StillParked             a pair could not be repaired; its events stay parked
├── BuildRunning            another process holds the build lease
├── RebuildRefused          the rebuild cannot be done, or its result must not go live
├── NoSnapshot              a build reads the log event by event
└── Unavailable
    ├── NotSwitched         the live view could not be frozen for long enough
    └── QueueUnavailable    the queue's Redis does not answer

Errors of a connection to Redis are in ``projections/client/``; its callers get ``ViewsUnavailable``.
"""

from __future__ import annotations

from collections.abc import Sequence

from commands.errors import FollowsError, Unavailable
from projections.keys import View


class ViewLost(FollowsError):
    """A partition has no checkpoint, or one of another log; ``partition`` is None for the whole view."""

    def __init__(self, view: View, partition: int | None) -> None:
        where = "" if partition is None else f"partition {partition} of "
        super().__init__(f"{where}generation {view.generation} is lost")
        self.view, self.partition = view, partition


class LogChanged(ViewLost):
    """The view was made from another log, or from this log before it was restored to an older state."""

    def __init__(self, view: View) -> None:
        super().__init__(view, None)
        self.message += ": it was made from another log, or from one that was restored to an older state since"
        self.args = (self.message,)


class OtherFeeder(FollowsError):
    """This process must not write views: another database feeds this Redis, or views in it are of another history."""


class Fenced(FollowsError):
    """Another process owns ``what`` under a higher fence; this one must stop writing to it."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what} has another owner now" + (f"; {advice}" if advice else ""))


class BatchRefused(FollowsError):
    """Partitions refuse more of a batch than may be parked: the server or this version is at fault, not the events."""

    def __init__(self, partitions: Sequence[int], reason: str) -> None:
        super().__init__(f"partitions {list(partitions)} {reason}")


class StillParked(FollowsError):
    """A pair could not be repaired, for the reason in ``message``; its events stay parked."""


class BuildRunning(FollowsError):
    """Another process holds the build lease; there is one build at a time."""

    def __init__(self) -> None:
        super().__init__("another rebuild is running: `follows generations` shows it")


class RebuildRefused(FollowsError):
    """The rebuild cannot be done, or its result must not go live; the live view stays."""


class NoSnapshot(FollowsError):
    """A build cannot begin with a snapshot, for the reason in ``message``; it reads the log event by event."""


class NotSwitched(Unavailable):
    """The live view could not be frozen for long enough; it stays live."""

    def __init__(self) -> None:
        super().__init__("the new view did not reach the live view's position in time; try again")


class QueueUnavailable(Unavailable):
    """The queue's Redis does not answer."""

    def __init__(self) -> None:
        super().__init__("the queue is not available")
