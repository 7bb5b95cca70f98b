"""Opening and closing the parts with the application; a wrong setting is told in one sentence, not in a traceback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp, Receive, Scope, Send

from api.parts import Parts
from commands.errors import SettingsError


class Starting:
    """One start of an application; ``refused`` is the setting that it was refused for, if any."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._refused: SettingsError | None = None

    @asynccontextmanager
    async def lifespan(self, _: Litestar) -> AsyncIterator[None]:
        """The framework's hook: parts are open inside."""
        try:
            await self._parts.start()
        except SettingsError as error:
            self._refused = error
            raise
        try:
            yield
        finally:
            await self._parts.close()

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the server's lifespan messages."""

        async def say(message: Any) -> None:
            if self._refused is not None and message["type"] == "lifespan.startup.failed":
                message = {**message, "message": f"error: {self._refused.message}"}
            await send(message)

        try:
            await app(scope, receive, say)
        except BaseException:
            if self._refused is None:  # else the server has been told, and would print it all again
                raise
