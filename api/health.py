"""Health checks for operators and balancers: alive, and ready with reasons."""

from typing import Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from api.services import Services
from commands.errors import FollowsError, LogUnavailable, ViewUnavailable
from commands.log import event_log as log
from commands.log.event_log import Head
from projections.keys import View
from projections.views.generations import checkpoints

# With a view that is further behind, a process should get no new traffic; a backlog is projected at some 60,000/s.
READY_LAG_MAX_S: Final = 60.0
# Health checks have short timeouts: a Postgres that does not answer in this time is reported as unavailable.
LOG_TIMEOUT_S: Final = 1.0
OK: Final = "ok"
STOPPING: Final = "stopping"


class Readiness(msgspec.Struct, frozen=True):
    """Whether the process should get traffic, and each part's state; ``lag_events`` and ``lag_s`` are the view's.

    ``lag_s`` is None when it is not known.
    """

    ready: bool
    process: str
    postgres: str
    redis: str
    view: str
    lag_events: int | None = None
    lag_s: float | None = None


def is_health(path: str) -> bool:
    """Return whether a path is one of these checks, read as the router reads it."""
    return path.lstrip("/").partition("/")[0] == "health"


@get("/health/live", summary="The process answers", sync_to_thread=False)
def live() -> dict[str, str]:
    """Return 200: the process answers, whatever other servers do."""
    return {"status": "alive"}


@get(
    "/health/ready",
    summary="The process can serve",
    responses={503: ResponseSpec(Readiness, generate_examples=False, description="Not now: see what is not `ok`")},
)
async def ready(services: NamedDependency[Services]) -> Response[Readiness]:
    """Return 200, or 503 with what is missing. Without Postgres alone the process is ready: reads go on."""
    postgres, head = await _log(services)
    redis, view, live_view, position = await _views(services)
    lag_events: int | None = None
    lag_s: float | None = None
    if head is not None and live_view is not None and position is not None:
        lag_events = max(0, head.position - position)
        try:
            since = await log.time_after(services.engine, position) if lag_events else None
            age_us = None if since is None else head.now - since
            lag_s = services.lag_clock.lag_s(live_view, position, head.position, age_us)
        except LogUnavailable as error:
            postgres = error.message
        if lag_s is not None and lag_s > READY_LAG_MAX_S:
            view = "far behind"
    process = STOPPING if services.shutdown.begun else OK
    good = process == redis == view == OK
    body = Readiness(good, process, postgres, redis, view, lag_events, lag_s)
    return Response(body, status_code=200 if good else 503, headers={} if good else {"Retry-After": "1"})


async def _log(services: Services) -> tuple[str, Head | None]:
    """Return the state of Postgres, and the log's end."""
    try:
        return OK, await services.read_log_head(LOG_TIMEOUT_S)
    except FollowsError as error:
        return error.message, None


async def _views(services: Services) -> tuple[str, str, View | None, int | None]:
    """Return the states of Redis and of the view, the view, and the position of its last partition."""
    try:
        services.require("views")
        view = await services.reader.view(refresh=True)
        found = await checkpoints(services.redis, view, range(view.partitions))
    except FollowsError as error:
        problem = services.watch.problem  # shown without the server's name, since any caller may ask
        if problem is not None and "views" not in services.unchecked:
            return f"Redis {problem.reason}", "unknown", None, None
        states = (OK, error.message) if isinstance(error, ViewUnavailable) else (error.message, "unknown")
        return *states, None, None
    if None in found.values():
        return OK, "a partition is lost", view, None
    return OK, OK, view, min(checkpoint.position for checkpoint in found.values() if checkpoint)
