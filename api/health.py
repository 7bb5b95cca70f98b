"""Health for whoever runs the service: alive, and ready with reasons."""

from typing import Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from api.parts import Parts
from commands import log
from commands.errors import FollowsError
from projections.generations import checkpoints

# A view that is further behind is not fit to take new traffic; a restart's backlog is worked off at some 60,000/s.
LAG_MAX_S: Final = 60.0


class Readiness(msgspec.Struct, frozen=True):
    """Whether traffic should come here, and what each part says; ``lag_events`` and ``lag_s`` are the view's."""

    ready: bool
    postgres: str
    redis: str
    view: str
    lag_events: int | None = None
    lag_s: float | None = None


@get("/health/live", summary="The process answers", sync_to_thread=False)
def live() -> dict[str, str]:
    """Alive: says nothing of other servers."""
    return {"status": "alive"}


@get("/health/ready", summary="The process can serve")
async def ready(parts: NamedDependency[Parts]) -> Response[Readiness]:
    """Ready: 200, or 503 with what is missing. Reads go on without Postgres, so that alone does not make unready."""
    postgres, redis, view = "ok", "ok", "ok"
    lag_events: int | None = None
    lag_s: float | None = None
    head = None
    try:
        parts.must_be_vetted("log")
        head = await log.head(parts.engine)
    except FollowsError as error:
        postgres = error.message
    try:
        parts.must_be_vetted("store")
        now = await parts.reader.view(again=True)
        found = await checkpoints(parts.store, now, range(now.lanes))
        lowest = min((checkpoint.position if checkpoint else -1) for checkpoint in found.values())
        if lowest < 0:
            view = "a lane is lost"
        elif head is not None:
            lag_events = max(0, head.position - lowest)
            since = await log.recorded_after(parts.engine, lowest) if lag_events else None
            lag_s = 0.0 if since is None else max(0, head.now - since) / 1_000_000
            if lag_s > LAG_MAX_S:
                view = "far behind"
    except FollowsError as error:
        if type(error).__name__ == "ViewUnavailable":
            view = error.message
        else:
            redis = error.message
    good = redis == "ok" and view == "ok"
    body = Readiness(good, postgres, redis, view, lag_events, lag_s)
    headers = {} if good else {"Retry-After": "1"}
    return Response(body, status_code=200 if good else 503, headers=headers)
