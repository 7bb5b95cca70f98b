"""Health for whoever runs the service: alive, and ready with reasons."""

from typing import Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec

from api.parts import Parts
from commands import log
from commands.errors import FollowsError, LogUnavailable, ViewUnavailable
from commands.log import Head
from projections.generations import checkpoints

# A view that is further behind is not fit to take new traffic; a restart's backlog is worked off at some 60,000/s.
LAG_MAX_S: Final = 60.0
# Who asks has less patience than a command: a Postgres that does not answer at once is told as one that is away.
LOOK_S: Final = 1.0
OK: Final = "ok"
STOPPING: Final = "stopping"


class Readiness(msgspec.Struct, frozen=True):
    """Whether traffic should come here, and what each part says; ``lag_events`` and ``lag_s`` are the view's."""

    ready: bool
    process: str
    postgres: str
    redis: str
    view: str
    lag_events: int | None = None
    lag_s: float | None = None


@get("/health/live", summary="The process answers", sync_to_thread=False)
def live() -> dict[str, str]:
    """Alive: says nothing of other servers."""
    return {"status": "alive"}


@get(
    "/health/ready",
    summary="The process can serve",
    responses={503: ResponseSpec(Readiness, generate_examples=False, description="Not now: see what is not `ok`")},
)
async def ready(parts: NamedDependency[Parts]) -> Response[Readiness]:
    """Ready: 200, or 503 with what is missing. Reads go on without Postgres, so that alone does not make unready."""
    postgres, head = await _log(parts)
    redis, view, position = await _views(parts)
    lag_events: int | None = None
    lag_s: float | None = None
    if head is not None and position is not None:
        lag_events = max(0, head.position - position)
        try:
            since = await log.recorded_after(parts.engine, position) if lag_events else None
            lag_s = 0.0 if since is None else max(0, head.now - since) / 1_000_000
        except LogUnavailable as error:
            postgres = error.message
        if lag_s is not None and lag_s > LAG_MAX_S:
            view = "far behind"
    process = STOPPING if parts.leaving.begun else OK
    good = process == redis == view == OK
    body = Readiness(good, process, postgres, redis, view, lag_events, lag_s)
    return Response(body, status_code=200 if good else 503, headers={} if good else {"Retry-After": "1"})


async def _log(parts: Parts) -> tuple[str, Head | None]:
    """What Postgres is like, and the log's end."""
    try:
        return OK, await parts.look_at_log(LOOK_S)
    except FollowsError as error:
        return error.message, None


async def _views(parts: Parts) -> tuple[str, str, int | None]:
    """What Redis is like, what the view is like, and the position that all of its lanes have reached."""
    try:
        parts.must_be_vetted("store")
        view = await parts.reader.view(again=True)
        found = await checkpoints(parts.store, view, range(view.lanes))
    except ViewUnavailable as error:
        return OK, error.message, None
    except FollowsError as error:
        return error.message, "unknown", None
    if None in found.values():
        return OK, "a lane is lost", None
    return OK, OK, min(checkpoint.position for checkpoint in found.values() if checkpoint)
