"""The state of the service at one moment: the facts of Postgres and Redis side by side, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from commands.coordination import leases
from commands.coordination.overview import GenerationFact, LogFacts, OwnerFact
from projections.keys import lease_group_of
from projections.state.view_facts import ViewFacts

# A worker renews each second. One that has not for longer than this is stopped, cut off or dead.
WORKER_SILENT_S: Final = leases.TAKE_OVER_S


class Build(msgspec.Struct, frozen=True):
    """A generation that is being built. ``events_per_s`` and ``seconds_left`` are None when they are not known;
    ``owner`` is None when no process builds it now."""

    generation: int
    reason: str
    position: int | None
    head: int
    events_per_s: float | None
    seconds_left: float | None
    owner: str | None
    process: str | None

    @property
    def percent(self) -> int:
        """How much of the log it holds."""
        return 100 * (self.position or 0) // max(self.head, 1)

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
        return f"{self.percent} %{left}"


class Worker(msgspec.Struct, frozen=True):
    """An owner of leases: its process, the seconds since its last sign of life, and the lease groups that it has.

    ``process`` is "kind pid on host", None for a process of an older version. ``builds`` when it has the build lease.
    ``runs`` are the run ids of the Redis servers that it reaches, with commas.
    """

    owner: str
    process: str | None
    seen_s: float
    is_alive: bool
    projects: bool
    lease_groups: list[int]
    builds: bool
    runs: str


class PartitionState(msgspec.Struct, frozen=True):
    """A partition of the live view. ``state`` is "ok", "lost", "away", "ahead" or "other history"; position and lags
    are None where they are not known."""

    partition: int
    state: str
    position: int | None
    lag_events: int | None
    lag_s: float | None


class LeaseGroupStatus(msgspec.Struct):
    """The lowest checkpoint of a lease group (None: a partition has none), its lag, and the worker that has the lease.

    ``rate`` is in events per second.
    """

    group: int
    position: int | None
    lag_events: int | None
    lag_s: float | None
    rate: float | None = None
    owner: str | None = None


class State(msgspec.Struct, frozen=True):
    """A reading. ``log`` is None when Postgres does not answer, and ``log_why_not`` says why, in its own words.

    ``log_is_wrong`` when it answers and has another schema.
    """

    log: LogFacts | None
    log_why_not: str | None
    views: ViewFacts
    builds: Sequence[Build] = ()
    partitions: Sequence[PartitionState] = ()
    lag_s: float | None = None
    queue_why_not: str | None = None
    queue_jobs: int | None = None
    log_is_wrong: bool = False

    @property
    def workers(self) -> list[Worker]:
        """The owners of leases, those that were seen last first."""
        return [] if self.log is None else [_worker(owner, self.log.now) for owner in reversed(self.log.owners)]

    @property
    def lag_events(self) -> int | None:
        """The lag of the partition that is furthest behind; None when one is not known, or without a view."""
        lags = [partition.lag_events for partition in self.partitions]
        return None if not lags or None in lags else max(lag for lag in lags if lag is not None)


def partitions_of(log: LogFacts | None, views: ViewFacts) -> list[PartitionState]:
    """Return the partitions of the live view, judged by the log that was read after them."""
    states = [PartitionState(partition, "away", None, None, None) for partition in views.away]
    words = {} if log is None else {place.position: place for place in log.places}
    for partition, at in views.checkpoints.items():
        if at is None:
            states.append(PartitionState(partition, "lost", None, None, None))
        elif log is None or at.position not in words:
            states.append(PartitionState(partition, "ok", at.position, None, None))
        elif at.position > log.position and not log.read_only:
            states.append(PartitionState(partition, "ahead", at.position, None, None))
        elif any(word is not None and words[p].word not in (None, word) for p, word in at.words if p in words):
            states.append(PartitionState(partition, "other history", at.position, None, None))
        else:
            next_at = words[at.position].next_at
            lag_s = 0.0 if next_at is None else (log.now - next_at) / 1e6
            lag_events = max(0, log.position - at.position)
            states.append(PartitionState(partition, "ok", at.position, lag_events, lag_s if lag_s >= 0 else None))
    return sorted(states, key=lambda state: state.partition)


def lease_groups(state: State) -> list[LeaseGroupStatus]:
    """Return the lease groups of the live view, none while it is not known."""
    owners = {group: worker.owner for worker in state.workers for group in worker.lease_groups}
    groups: dict[int, list[PartitionState]] = {}
    for partition in state.partitions:
        groups.setdefault(lease_group_of(partition.partition), []).append(partition)
    return [_group_status(group, some, owners.get(group)) for group, some in sorted(groups.items())]


def _group_status(group: int, partitions: Sequence[PartitionState], owner: str | None) -> LeaseGroupStatus:
    usable = [one.position for one in partitions if one.state == "ok" and one.position is not None]
    if len(usable) < len(partitions):
        return LeaseGroupStatus(group, None, None, None, owner=owner)
    last = min(partitions, key=lambda one: one.position or 0)
    return LeaseGroupStatus(group, last.position, last.lag_events, last.lag_s, owner=owner)


def build_of(fact: GenerationFact, log: LogFacts, position: int | None, rate: float | None) -> Build:
    """Return a build with its owner; ``rate`` in events per second, None for the mean since it began."""
    owner = next((one for one in log.owners if leases.BUILD_LEASE in one.leases), None)
    if rate is None and position and log.now > fact.started_at:
        rate = position / ((log.now - fact.started_at) / 1e6)
    left = (log.position - position) / rate if rate and position is not None else None
    process = None if owner is None else process_name(owner)
    return Build(
        fact.number,
        fact.reason,
        position,
        log.position,
        None if rate is None else round(rate, 1),
        None if left is None else round(max(0.0, left), 1),
        None if owner is None else owner.owner,
        process,
    )


def process_name(owner: OwnerFact) -> str | None:
    """Return an owner's process in words."""
    process = owner.process
    return None if process is None else f"{process.kind} {process.pid} on {process.host}"


def duration(seconds: float) -> str:
    """Return a time in words, rounded."""
    return f"{round(seconds)} seconds" if seconds < 100 else f"{round(seconds / 60)} minutes"


def _worker(owner: OwnerFact, now: int) -> Worker:
    groups = [int(name.removeprefix(leases.GROUP_PREFIX)) for name in owner.leases if name != leases.BUILD_LEASE]
    # A worker renews once a second. One that was seen in the future has died before Postgres' clock stepped back.
    seen_s = abs(now - owner.seen_at) / 1e6
    return Worker(
        owner.owner,
        process_name(owner),
        round(seen_s, 1),
        seen_s < WORKER_SILENT_S,
        owner.projects,
        sorted(groups),
        leases.BUILD_LEASE in owner.leases,
        owner.runs,
    )
