"""The web application: both dialects, health and documentation; ``api.app:app`` is what the server runs."""

import gc
import os
import sys
from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from api import health, openapi
from api.context import request_headers
from api.kraken import errors as kraken_errors
from api.kraken.asked import is_kraken
from api.kraken.gate import gate as kraken_gate
from api.kraken.routes import router as kraken_router
from api.leaving import saying_goodbye
from api.parts import Parts
from api.request_ids import begin_request, log_with_ids, named
from api.slow_clients import timely
from api.starting import Starting
from api.v1 import errors as v1_errors
from api.v1.gate import gate as v1_gate
from api.v1.gate import is_v1
from api.v1.routes import router as v1_router
from commands.errors import SettingsError

# No body of either dialect comes near it; what is larger is refused before it is read.
BODY_MAX = 64 * 1024
# New objects before the collector of cycles looks at them; Python's own 700 are a few requests.
COLLECT_AFTER = 50_000


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answer what no router saw (unknown paths, wrong methods) in the form of the dialect the path belongs to."""
    if is_kraken(request.scope["path"]):
        return kraken_errors.handle(request, error)
    return v1_errors.handle(request, error)


def create_app(parts: Parts) -> ASGIApp:
    """Put the application together around ``parts``, which it starts and closes."""

    starting = Starting(parts)

    def provide_parts() -> Parts:
        return parts

    litestar = Litestar(
        route_handlers=[v1_router, kraken_router, health.live, health.ready, *openapi.assets()],
        dependencies={"parts": Provide(provide_parts, sync_to_thread=False)},
        exception_handlers={Exception: handle},
        lifespan=[starting.lifespan],
        request_max_body_size=BODY_MAX,
        openapi_config=openapi.config(),
        logging_config=None,
    )
    v1 = v1_gate(litestar, parts)
    kraken = kraken_gate(litestar, parts, BODY_MAX)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if str(scope["type"]) == "lifespan":
            await starting.run(litestar, scope, receive, send)
            return
        if parts.leaving.begun:
            send = saying_goodbye(send)
        if scope["type"] == ScopeType.HTTP and is_v1(path):
            await v1(scope, timely(receive), send)
        elif scope["type"] == ScopeType.HTTP and is_kraken(path):
            await kraken(scope, timely(receive), send)
        else:
            await litestar(scope, receive, named(begin_request(request_headers(scope)), send))

    return app


def __getattr__(name: str) -> Any:
    """Make ``app`` when the server asks for it, so that importing this module needs no settings."""
    if name == "app":
        log_with_ids(os.environ.get("FOLLOWS_LOG_LEVEL", "INFO"))
        try:
            app = create_app(Parts.from_env())
        except SettingsError as error:
            sys.exit(f"error: {error.message}")
        # Requests leave hardly any cycles behind, and a look at all that was imported costs milliseconds: a tenth of
        # the CPU of a read.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 20, 50)
        return app
    raise AttributeError(name)
