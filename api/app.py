"""The web application: both dialects, health and documentation; ``api.app:app`` is what the server runs."""

import gc
from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from api import health
from api.context import request_headers
from api.document.document import StructTypes
from api.document.page import assets, openapi_config
from api.head import as_get, without_body
from api.kraken.errors import handle_kraken_error
from api.kraken.middleware import kraken_middleware
from api.kraken.request import is_kraken
from api.kraken.routes import kraken_router
from api.lifespan import Startup
from api.one_reading import path_of, two_readings
from api.reply import to_response
from api.request_id import begin_request, configure_logging, with_request_id
from api.request_log import start_request_log
from api.services import Services
from api.shutdown import closing_connection
from api.timeouts import BODY_TIMEOUT_S, with_body_timeout
from api.v1.errors import answer_v1_error, handle_v1_error
from api.v1.middleware import is_v1, v1_middleware
from api.v1.routes import v1_router
from commands.errors import SettingsError
from commands.logs import exit_refused
from commands.settings import log_level
from commands.tracing import start_tracing, tracer

# What a user's fields may take, each character escaped as 12 bytes. A larger body is refused before it is read.
BODY_MAX = 256 * 1024
# New objects before a garbage collection; Python's own 700 are a few requests.
COLLECT_AFTER = 50_000


def handle_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answer what has no route (unknown paths, wrong methods) in the form of the dialect that the path belongs to."""
    return (handle_kraken_error if is_kraken(request.scope["path"]) else handle_v1_error)(request, error)


def create_app(services: Services, *, body_timeout_s: float = BODY_TIMEOUT_S) -> ASGIApp:
    """Return the application around ``services``, which it starts and closes."""

    startup, structs = Startup(services), StructTypes()

    def provide_services() -> Services:
        return services

    litestar = Litestar(
        route_handlers=[v1_router, kraken_router, *health.ROUTES, *assets()],
        dependencies={"services": Provide(provide_services, sync_to_thread=False)},
        exception_handlers={Exception: handle_error},
        lifespan=[startup.lifespan],
        request_max_body_size=BODY_MAX,
        openapi_config=openapi_config(structs),
        plugins=[structs],
        logging_config=None,
    )
    v1 = v1_middleware(litestar, services, BODY_MAX)
    kraken = kraken_middleware(litestar, services, BODY_MAX)
    elsewhere = _without_dialect(litestar)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if str(scope["type"]) == "lifespan":
            await startup.run(litestar, scope, receive, send)
            return
        path = scope["path"] = path_of(scope)
        if services.shutdown.begun:
            send = closing_connection(send)
        if scope["type"] == ScopeType.HTTP and scope["method"] in ("HEAD", "OPTIONS"):
            scope, send = _like_get(scope, send)
        if scope["type"] == ScopeType.HTTP and is_v1(path):
            await v1(scope, with_body_timeout(receive, body_timeout_s), send)
        elif scope["type"] == ScopeType.HTTP and is_kraken(path):
            await kraken(scope, with_body_timeout(receive, body_timeout_s), send)
        else:
            await elsewhere(scope, receive, send)

    return app


def _traced(app: ASGIApp) -> ASGIApp:
    """Return the application with spans; without FOLLOWS_TRACES nothing of OpenTelemetry is imported."""
    from api.request_spans import with_spans

    made_by = tracer()
    assert made_by is not None
    return with_spans(app, made_by)


def _without_dialect(litestar: Litestar) -> ASGIApp:
    """Return what answers requests outside of both dialects."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        headers = request_headers(scope)
        send = with_request_id(begin_request(headers), send)
        if (problem := two_readings(scope, headers)) is None:
            await litestar(scope, receive, send)
        else:
            answer = to_response(answer_v1_error(problem)).to_asgi_response(None, Request(scope))
            await answer(scope, receive, send)

    return handle


def _like_get(scope: HTTPScope, send: Send) -> tuple[Scope, Send]:
    """Return what makes HEAD a GET without its body, and OPTIONS of health a GET: HAProxy checks with that."""
    if scope["method"] == "HEAD":
        return as_get(scope), without_body(send)
    return (as_get(scope) if health.is_health(scope["path"]) else scope), send


def __getattr__(name: str) -> Any:
    """Make ``app`` when the server asks for it: importing this module needs no settings."""
    if name == "app":
        try:
            configure_logging(log_level())
            start_request_log()
            app = create_app(Services.from_env())
            if start_tracing(begins_traces=False):
                app = _traced(app)
        except SettingsError as error:
            exit_refused(error)
        # Requests leave hardly any cycles, and a collection that visits every imported object takes milliseconds: a
        # tenth of the CPU of a read.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 20, 50)
        return app
    raise AttributeError(name)
