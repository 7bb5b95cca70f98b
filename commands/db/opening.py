"""Connections for callers that wait for a connect only a short time: it goes on, and the next caller takes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import AdaptedConnection, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from commands.db.session import LogConnection

# In the pool's notes on a connection: when it was lent for the first time.
_OPENED_AT = "opened_at"


class Opener:
    """Opens the connections of an engine, and opens a new one beside a connection that is too old.

    An address may name hosts that have vanished, and psycopg gives each of them seconds. A caller that waits less would
    never come to the next host if each connect began again at the first one.
    """

    def __init__(self, connect: Callable[[], Awaitable[LogConnection]], age_max_s: float) -> None:
        self.connect, self._age_max_s = connect, age_max_s
        # Connects that no caller waits for (any more); they end by themselves, within the limits of a connect.
        self._unclaimed: list[asyncio.Task[LogConnection]] = []

    async def __call__(self) -> LogConnection:
        """Return a connection. Raises as ``connect`` does; when cancelled, leaves the connect to the next caller."""
        opening = self._unclaimed.pop() if self._unclaimed else self._begin()
        try:
            await asyncio.wait({opening})
        except asyncio.CancelledError:
            self._unclaimed.append(opening)
            raise
        return opening.result()

    def listen(self, engine: AsyncEngine) -> None:
        """Watch over the connections of ``engine``, until it is disposed."""
        event.listen(engine.sync_engine, "checkout", self._replace_old)
        event.listen(engine.sync_engine, "engine_disposed", lambda _: self._drop_unclaimed())

    def _begin(self) -> asyncio.Task[LogConnection]:
        return asyncio.ensure_future(self.connect())

    def _replace_old(self, connection: AdaptedConnection, record: ConnectionPoolEntry, proxy: object) -> None:
        """Lend an old connection until the connect beside it has ended; then have the pool take what came of that."""
        if time.monotonic() - record.info.setdefault(_OPENED_AT, time.monotonic()) < self._age_max_s:
            return
        if not self._unclaimed:
            self._unclaimed.append(self._begin())
        if self._unclaimed[-1].done():
            raise DisconnectionError

    def _drop_unclaimed(self) -> None:
        while self._unclaimed:
            opening = self._unclaimed.pop()
            opening.cancel()
            opening.add_done_callback(_close)


def _close(opening: asyncio.Task[LogConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().pgconn.finish()
