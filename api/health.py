"""Health checks for operators, monitors and balancers: alive, ready, and whether reads and writes are answered.

All are answered from the last state (projections/state), which is refreshed once a second: they ask no server, wait for
nothing and count for no rate limit.
"""

import time
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from api.services import Services
from projections.state.problems import StateProblem, in_order, problem, refuse

# Problems of this process alone: another one may serve.
_OWN: Final = ("starting", "stopping", "no_key")
_NO_STORE: Final = {"Cache-Control": "no-store"}


class Alive(msgspec.Struct, frozen=True):
    """That the process answers."""

    status: Literal["alive"]


class Keys(msgspec.Struct, frozen=True):
    """The keys for tokens: how many, how long ago their source was read (s), and why a read of it failed last."""

    count: int
    age_s: float | None
    last_failure: str | None


class Details(msgspec.Struct, frozen=True):
    """What FOLLOWS_HEALTH_DETAILS=1 adds: the problems with what to do, the log's last position and the lag of the
    views, None if not known."""

    problems: list[StateProblem]
    position: int | None
    lag_events: int | None
    lag_s: float | None
    keys: Keys


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether this process should get traffic, and whether reads and commands are answered; each check is 200 or 503 by
    its own field. ``degraded`` is what is wrong: codes, or sentences with FOLLOWS_HEALTH_DETAILS=1."""

    ready: bool
    reads: bool
    writes: bool
    degraded: list[str]
    details: Details | None = None


def is_health(path: str) -> bool:
    """Return whether a path is one of these checks, read as the router reads it."""
    return path.lstrip("/").partition("/")[0] == "health"


@get("/health/live", summary="The process answers", tags=["health"], sync_to_thread=False)
def live() -> Response[Alive]:
    """Return 200: the process answers, whatever other servers do."""
    return Response(Alive("alive"), headers=_NO_STORE)


def _refused(description: str) -> dict[int, ResponseSpec]:
    return {503: ResponseSpec(Health, generate_examples=False, description=description)}


@get(
    "/health/ready",
    summary="The process can serve",
    responses=_refused("Not now: it starts or stops, has no token key, or reaches neither Postgres nor Redis"),
    tags=["health"],
    sync_to_thread=False,
)
def ready(services: NamedDependency[Services]) -> Response[Health]:
    """Return 200 while the process can serve anything; ``degraded`` says what is wrong all the same.

    What all processes share, such as views that are late, takes none of them out of a balancer.
    """
    found = _health(services)
    return _answer(found, found.ready)


@get(
    "/health/reads",
    summary="Reads are answered",
    responses=_refused("Reads are 503"),
    tags=["health"],
    sync_to_thread=False,
)
def reads(services: NamedDependency[Services]) -> Response[Health]:
    """Return 503 while reads are 503 for all callers or of some users."""
    found = _health(services)
    return _answer(found, found.reads)


@get(
    "/health/writes",
    summary="Commands are answered",
    responses=_refused("Commands are 503"),
    tags=["health"],
    sync_to_thread=False,
)
def writes(services: NamedDependency[Services]) -> Response[Health]:
    """Return 503 while commands are 503."""
    found = _health(services)
    return _answer(found, found.writes)


def problems(services: Services) -> list[StateProblem]:
    """Return what is wrong with this process, and with the service as it last saw it."""
    keys = services.verifier.keys
    keys.refresh_soon()  # a process that gets no traffic would never read them again
    found = []
    if services.shutdown.begun:
        found.append(problem("stopping", "the process was told to stop"))
    if services.state.state is None:
        found.append(problem("starting", "the process has not looked at its servers yet"))
    facts = keys.facts
    if not facts.count:
        found.append(problem("no_key", f"there is no key to verify tokens with: {facts.failure or 'the set is empty'}"))
    elif facts.failure:
        found.append(problem("keys_not_read", f"the keys were not read again: {facts.failure}"))
    if services.feeder.problem is not None:
        found.append(problem(services.feeder.code, services.feeder.problem))
    return in_order([*found, *services.unusable(), *services.state.problems])


def _health(services: Services) -> Health:
    found = problems(services)
    details = _details(services, found) if services.health_details else None
    return Health(
        ready=process_is_ready(services, found),
        reads=not refuse(found, "reads"),
        writes=not refuse(found, "writes"),
        degraded=[one.code if details is None else one.message for one in found],
        details=details,
    )


def process_is_ready(services: Services, found: Sequence[StateProblem]) -> bool:
    """Return whether the process can serve anything while it has these problems."""
    state = services.state.state
    is_cut_off = state is not None and state.log is None and state.views.why_not is not None
    return not is_cut_off and not any(one.code in _OWN for one in found)


def _answer(found: Health, ok: bool) -> Response[Health]:
    headers = _NO_STORE if ok else {**_NO_STORE, "Retry-After": "1"}
    return Response(found, status_code=200 if ok else 503, headers=headers)


def _details(services: Services, found: Sequence[StateProblem]) -> Details:
    state, facts = services.state.state, services.verifier.keys.facts
    age_s = None if facts.read_at is None else round(time.monotonic() - facts.read_at, 1)
    position = None if state is None or state.log is None else state.log.position
    lag_events, lag_s = (None, None) if state is None else (state.lag_events, state.lag_s)
    return Details(list(found), position, lag_events, lag_s, Keys(facts.count, age_s, facts.last_failure))


ROUTES: Final = (live, ready, reads, writes)
