"""What is wrong, judged from the facts of one reading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from commands.coordination.overview import LogFacts
from projections.state.problems import StateProblem, problem, time_text
from projections.state.state import State, Worker, duration
from projections.views.server_watch import evicted_since, wrong_policy

# A view that is further behind is a problem; a backlog is projected at some 60,000 events a second.
LATE_S: Final = 60.0
# An erasure begins within a second, and takes some seconds for each million follows.
ERASURE_LATE_S: Final = 600.0
# The default leeway of tokens: beyond it, valid tokens are refused.
CLOCK_DIFFERENCE_MAX_S: Final = 30.0
# A worker that renewed so long ago may have met a failover since.
RENEWED_S: Final = 1.5
# As many partitions are named in a message.
NAMED_MAX: Final = 8


def judge(state: State) -> list[StateProblem]:
    """Return the problems of the servers, the views, the workers and what waits for an operator."""
    found = [*_postgres(state), *_redis(state), *_views(state)]
    if state.log is not None:
        found += [*_workers(state), *_waiting(state.log), *_clocks(state.log)]
    return found


def _postgres(state: State) -> Iterator[StateProblem]:
    if state.log is None and state.log_is_wrong:
        yield problem("log_not_usable", str(state.log_why_not))
    elif state.log is None:
        yield problem("postgres_unreachable", f"PostgreSQL cannot be used: {state.log_why_not}")
    elif state.log.read_only:
        yield problem("postgres_read_only", "PostgreSQL takes no writes: it is a standby, or set to be read-only")


def _redis(state: State) -> Iterator[StateProblem]:
    views = state.views
    if views.why_not is not None:
        yield problem("redis_unreachable", f"the Redis of the views cannot be used: {views.why_not}")
    elif views.away:
        yield problem(
            "redis_unreachable", f"a server does not answer; its {_partitions(list(views.away))} cannot be read"
        )
    evicted = wrong_policy(views.servers) or (evicted_since(views.servers, views.live.evicted) if views.live else None)
    if evicted is not None:
        yield problem("redis_evicts", f"{evicted.server} {evicted.reason}")
    if state.queue_why_not is not None:
        yield problem("queue_unreachable", f"the queue does not answer: {state.queue_why_not}")


def _views(state: State) -> Iterator[StateProblem]:
    build = next(iter(state.builds), None)
    progress = "" if build is None else f"; the next view is being built: {build}"
    if state.views.why_not is None and state.views.live is None and state.log is not None:
        without = "there is no view, and none is being built"
        yield problem("no_view", without if build is None else f"the view is being built: {build}")
    for code, kind, words in (
        ("partition_lost", "lost", "lost"),
        ("partition_ahead", "ahead", "beyond the log's end"),
        ("other_history", "other history", "of another history of the log"),
    ):
        if some := [one.partition for one in state.partitions if one.state == kind]:
            yield problem(code, f"{_partitions(some)} of the view: {words}{progress}")
    if build is not None and build.owner is None:
        yield problem(
            "build_stopped", f"generation {build.generation} is at {build.percent} %, and no process builds it"
        )
    if state.lag_s is not None and state.lag_s > LATE_S:
        since = None if state.log is None else state.log.now - int(state.lag_s * 1e6)
        yield problem("views_late", f"the views are {duration(state.lag_s)} behind the log", since)
    for kept in state.log.generations if state.log else ():
        if kept.state == "kept":
            yield problem("log_lost_events", f"generation {kept.number} is {kept.reason}")


def _workers(state: State) -> Iterator[StateProblem]:
    """Judge the workers that feed this Redis. While it cannot be read, it is not known which those are."""
    if state.views.why_not is not None:
        return
    workers = [worker for worker in state.workers if worker.projects]
    others = [] if state.log is None else [store for store in state.log.fed if store != state.views.store]
    if not workers and others and state.views.store:
        fed = ", ".join(others)
        yield problem("not_fed", f"no worker feeds this Redis, {state.views.store}, and another one is fed: {fed}")
    elif not any(worker.is_alive for worker in workers):
        last = f"; the last one, {_seen(workers[0])}" if workers else ""
        yield problem("no_worker", f"no worker projects the log{last}")
    else:
        for worker in workers:
            if not worker.is_alive:
                yield problem("worker_silent", f"{_seen(worker)}")
    runs = sorted({worker.runs for worker in workers if worker.runs and worker.seen_s < RENEWED_S})
    if len(runs) > 1:
        ids = f"run ids {' and '.join(runs)}"
        yield problem("redis_copied", f"workers of one Redis reach different servers ({ids}): one of them is a copy")


def _seen(worker: Worker) -> str:
    return f"{worker.process or 'a worker'} ({worker.owner[:8]}), gave its last sign of life {worker.seen_s:.0f} s ago"


def _waiting(log: LogFacts) -> Iterator[StateProblem]:
    if pause := log.pause:
        paused = f"the projection is paused by {pause.who} since {time_text(pause.since)} ({pause.why})"
        yield problem("paused", paused, pause.since)
    if log.parked.count:
        yield problem("parked", f"{log.parked.count:,} events are parked: the views do not hold them", log.parked.since)
    if log.erasures.since is not None and log.now - log.erasures.since > ERASURE_LATE_S * 1e6:
        waiting = f"{log.erasures.count:,} erased users have follows that must still be ended"
        yield problem("erasures_late", waiting, log.erasures.since)


def _clocks(log: LogFacts) -> Iterator[StateProblem]:
    ahead_s = time.time() - log.now / 1e6
    if abs(ahead_s) > CLOCK_DIFFERENCE_MAX_S:
        side = "ahead of" if ahead_s > 0 else "behind"
        yield problem("clock_differs", f"this host's clock is {duration(abs(ahead_s))} {side} that of PostgreSQL")
    if log.recorded_at is not None and log.recorded_at - log.now > CLOCK_DIFFERENCE_MAX_S * 1e6:
        yield problem("log_clock_ahead", "the last event is dated ahead of PostgreSQL's clock")


def _partitions(some: list[int]) -> str:
    named = ", ".join(map(str, sorted(some)[:NAMED_MAX]))
    more = f" and {len(some) - NAMED_MAX} more" if len(some) > NAMED_MAX else ""
    return f"partition {named}" if len(some) == 1 else f"partitions {named}{more}"
