"""Opening and closing the services with the application; a wrong setting is reported in one sentence, without a
traceback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp, Receive, Scope, Send

from api.services import Services
from commands.errors import SettingsError
from commands.tracing import stop_tracing
from projections.metrics.folder import keeps_metrics


def _metrics(services: Services) -> Any:
    from api.metrics import WebMetrics  # only here: a process without metrics does not load the library

    metrics = WebMetrics(services)
    metrics.start()
    return metrics


class Startup:
    """One start of an application, which a wrong setting may prevent."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._refused: SettingsError | None = None

    @asynccontextmanager
    async def lifespan(self, _: Litestar) -> AsyncIterator[None]:
        """Keep the services open; the framework's hook."""
        try:
            await self._services.start()
        except SettingsError as error:
            self._refused = error
            raise
        metrics = _metrics(self._services) if keeps_metrics() else None
        try:
            yield
        finally:
            if metrics is not None:
                await metrics.close()
            await self._services.close()
            await asyncio.to_thread(stop_tracing)

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the server's lifespan messages."""

        async def send_with_reason(message: Any) -> None:
            if self._refused is not None and message["type"] == "lifespan.startup.failed":
                message = {**message, "message": f"error: {self._refused.message}"}
            await send(message)

        try:
            await app(scope, receive, send_with_reason)
        except BaseException:
            if self._refused is None:  # otherwise the server has the reason, and would print a traceback
                raise
