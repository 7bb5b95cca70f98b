"""The state of the service as metrics, under the names of ``follows status --json``; published by web processes, which
collect it once a second anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from projections.keys import LEASE_GROUPS
from projections.metrics.publish import HIGHEST, LATEST, set_gauge
from projections.state.problems import KINDS, StateProblem
from projections.state.state import State, lease_groups

_PARTITION_STATES: Final = ("ok", "lost", "away", "ahead", "other history")


STATE: Final = CollectorRegistry()


def _gauge(name: str, words: str, *labels: str) -> Gauge:
    return Gauge(f"follows_{name}", words, labels, multiprocess_mode=LATEST, registry=STATE)


LOG_POSITION: Final = _gauge("log_position", "Last position of the log.")
LOG_LAST_EVENT_AGE: Final = _gauge("log_last_event_age_seconds", "Age of the last event, by the clock of PostgreSQL.")
LOG_ERASURES: Final = _gauge("log_erasures_unfinished", "Erased users whose follows must still be ended.")
LOG_PARKED: Final = _gauge("log_parked", "Events that could not be projected and wait for an operator.")
LOG_PAUSED: Final = _gauge("log_paused", "1 while an operator has paused the projection.")
VIEW_GENERATION: Final = _gauge("view_generation", "Generation of the live view.")
VIEW_LAG_EVENTS: Final = _gauge("view_lag_events", "Lag of the partition that is furthest behind, in events.")
VIEW_LAG_SECONDS: Final = _gauge("view_lag_seconds", "Time since the first event that the view lacks was recorded.")
VIEW_PARTITIONS: Final = _gauge("view_partitions", "Partitions of the live view by their state.", "state")
GROUP_POSITION: Final = _gauge("lease_group_position", "Lowest checkpoint of a lease group.", "group")
GROUP_LAG_EVENTS: Final = _gauge("lease_group_lag_events", "Lag of a lease group, in events.", "group")
GROUP_LAG_SECONDS: Final = _gauge("lease_group_lag_seconds", "Lag of a lease group, in time.", "group")
GROUP_OWNED: Final = _gauge("lease_group_owned", "1 while a process has the lease of the group.", "group")
BUILDS: Final = _gauge("builds", "Generations that are being built.")
BUILDS_OWNED: Final = _gauge("builds_owned", "Those of them that a process builds now.")
BUILD_POSITION: Final = _gauge("build_position", "Position that the first build has reached.")
BUILD_HEAD: Final = _gauge("build_head", "Position that the first build must reach.")
BUILD_RATE: Final = _gauge("build_events_per_second", "Speed of the first build.")
BUILD_LEFT: Final = _gauge("build_left_seconds", "Time that the first build still takes.")
WORKERS: Final = _gauge("workers", "Workers by whether they renew their leases.", "state")
PROBLEM: Final = Gauge(
    "follows_problem",
    "1 while a web process reports this problem, by the code of `follows status`.",
    ["code"],
    multiprocess_mode=HIGHEST,
    registry=STATE,
)


def publish_state(state: State) -> None:
    """Publish a reading."""
    log, live = state.log, state.views.live
    set_gauge(LOG_POSITION, None if log is None else log.position)
    set_gauge(LOG_LAST_EVENT_AGE, None if log is None else log.last_event_age_s)
    set_gauge(LOG_ERASURES, None if log is None else log.erasures.count)
    set_gauge(LOG_PARKED, None if log is None else log.parked.count)
    set_gauge(LOG_PAUSED, None if log is None else log.pause is not None)
    set_gauge(VIEW_GENERATION, None if live is None else live.view.generation)
    set_gauge(VIEW_LAG_EVENTS, state.lag_events)
    set_gauge(VIEW_LAG_SECONDS, state.lag_s)
    counts = Counter(one.state for one in state.partitions)
    for kind in _PARTITION_STATES:
        set_gauge(VIEW_PARTITIONS, None if state.views.why_not else counts[kind], kind)
    _publish_groups(state)
    _publish_builds(state)
    alive = [worker.is_alive for worker in state.workers if worker.projects]
    set_gauge(WORKERS, None if log is None else alive.count(True), "alive")
    set_gauge(WORKERS, None if log is None else alive.count(False), "silent")


def _publish_groups(state: State) -> None:
    found = {group.group: group for group in lease_groups(state)}
    for number in range(LEASE_GROUPS):
        group, label = found.get(number), str(number)
        set_gauge(GROUP_POSITION, None if group is None else group.position, label)
        set_gauge(GROUP_LAG_EVENTS, None if group is None else group.lag_events, label)
        set_gauge(GROUP_LAG_SECONDS, None if group is None else group.lag_s, label)
        set_gauge(GROUP_OWNED, None if group is None or state.log is None else group.owner is not None, label)


def _publish_builds(state: State) -> None:
    known, first = state.log is not None, next(iter(state.builds), None)
    set_gauge(BUILDS, len(state.builds) if known else None)
    set_gauge(BUILDS_OWNED, sum(build.owner is not None for build in state.builds) if known else None)
    set_gauge(BUILD_POSITION, None if first is None else first.position)
    set_gauge(BUILD_HEAD, None if first is None else first.head)
    set_gauge(BUILD_RATE, None if first is None else first.events_per_s)
    set_gauge(BUILD_LEFT, None if first is None else first.seconds_left)


def publish_problems(problems: Sequence[StateProblem]) -> None:
    """Publish which problems there are; each code has a sample, so that an alert ends."""
    found = {one.code for one in problems}
    for code in KINDS:
        set_gauge(PROBLEM, code in found, code)
