"""Every problem that health and ``follows status`` report: its code, what it refuses, and what to do about it.

``docs/operate.md`` has a row for each code; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import msgspec

Calls = Literal["reads", "writes"]


class Kind(msgspec.Struct, frozen=True):
    """A kind of problem: which calls get 503 because of it, and the first thing to do."""

    do: str
    refuses: tuple[Calls, ...] = ()


_ASK_FOR_SPACE: Final = "free memory or raise maxmemory; see the words of Redis"
KINDS: Final[dict[str, Kind]] = {
    # This process
    "starting": Kind("wait; its log says what it waits for", ("reads", "writes")),
    "stopping": Kind("nothing: it was told to stop, and serves until clients have left", ("reads", "writes")),
    "no_key": Kind("check FOLLOWS_JWKS and what it names; the log says why it was not read", ("reads", "writes")),
    "keys_not_read": Kind("check FOLLOWS_JWKS; the keys read before stay in force"),
    "log_not_usable": Kind("do what the message says, usually `follows migrate`", ("writes",)),
    "views_not_usable": Kind("do what the message says, then restart nothing: it is checked again", ("reads",)),
    "state_unknown": Kind("look for `the state could not be collected` in its log: what else is shown here is older"),
    # Postgres
    "postgres_unreachable": Kind("start PostgreSQL, or mend the network or DATABASE_URL", ("writes",)),
    "postgres_read_only": Kind("point DATABASE_URL at the primary, or end its read-only mode", ("writes",)),
    "postgres_refuses_writes": Kind("do what the words of PostgreSQL ask for, such as freeing its disk", ("writes",)),
    # Redis
    "redis_unreachable": Kind("start Redis, or mend the network or REDIS_URL", ("reads",)),
    "redis_evicts": Kind("set maxmemory-policy to noeviction; workers then build the views again", ("reads",)),
    "redis_refuses_writes": Kind(_ASK_FOR_SPACE),
    "queue_unreachable": Kind("start the Redis of QUEUE_URL; until then the log is polled"),
    # The views
    "no_view": Kind("wait for the build; if none runs, start a worker", ("reads",)),
    "partition_lost": Kind(
        "wait for the build that a worker begins by itself; if none runs, start a worker", ("reads",)
    ),
    "partition_ahead": Kind("start a worker, which builds the views anew; `follows status` follows it", ("reads",)),
    "other_history": Kind("start a worker, which keeps these views and builds new ones", ("reads",)),
    "build_stopped": Kind("start a worker, or `follows rebuild` again: it continues where the build stopped"),
    "views_late": Kind("look at the workers here and at their logs; start more if they are busy"),
    "log_lost_events": Kind("`follows generations diff OLD NEW` names them; then `follows generations prune`"),
    "other_feeder": Kind("correct DATABASE_URL or REDIS_URL; if both are right, `follows adopt`", ("reads",)),
    "not_fed": Kind("use the Redis that is fed, in REDIS_URL; or start workers for this one", ("reads",)),
    # Workers and what waits
    "no_worker": Kind("start `follows worker`"),
    "redis_copied": Kind("look again in some seconds, after a failover; then stop the workers of one of the servers"),
    "worker_silent": Kind("restart that process on its host, or end it"),
    "paused": Kind("`follows resume` when the work is done"),
    "parked": Kind(
        "`follows parked` names them; then `follows parked retry --all` or `follows parked skip POSITION --reason WHY`"
    ),
    "erasures_late": Kind("look for `the sweep failed` in the workers' logs"),
    # Clocks
    "clock_differs": Kind("mend NTP on this host and on PostgreSQL's"),
    "log_clock_ahead": Kind("mend the clock of PostgreSQL's host; only dates are wrong"),
}


class StateProblem(msgspec.Struct, frozen=True):
    """A problem now. ``since`` is a time in RFC 3339, None when it is not known; ``refuses`` names what is 503."""

    code: str
    message: str
    since: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})] | None
    do: str
    refuses: tuple[Calls, ...]


def problem(code: str, message: str, since_us: int | None = None) -> StateProblem:
    """Return a problem of a kind in ``KINDS``; ``since_us`` in us since 1970."""
    kind = KINDS[code]
    return StateProblem(code, message, None if since_us is None else time_text(since_us), kind.do, kind.refuses)


# While one of these is there, workers that run show no sign of life: starting more does not help.
_WORKERS_WAIT: Final = {"other_feeder", "not_fed", "postgres_read_only", "postgres_refuses_writes"}
_RANKS: Final = {code: rank for rank, code in enumerate(KINDS)}


def in_order(problems: Iterable[StateProblem]) -> list[StateProblem]:
    """Return the problems, those that refuse calls first, and causes before what follows from them."""
    found = list(problems)
    are_waiting = not _WORKERS_WAIT.isdisjoint(one.code for one in found)
    shown = (one for one in found if not (are_waiting and one.code == "no_worker"))
    return sorted(shown, key=lambda one: (not one.refuses, _RANKS[one.code]))


def refuse(problems: Iterable[StateProblem], what: Calls) -> bool:
    """Return whether ``what`` is 503 because of one of the problems."""
    return any(what in found.refuses for found in problems)


def time_text(us: int) -> str:
    """Return a time in us since 1970 as RFC 3339, in whole seconds."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
