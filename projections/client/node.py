"""One server over one connection, which redis-py opens (TCP, TLS, Unix socket, AUTH, SELECT, the way by sentinels) and
projections/client/connection.py then uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from projections.client.connection import REPLY_TIMEOUT_S, Connection, Listeners, Request
from projections.outages import Outage, reason

logger: Final = logging.getLogger(__name__)

# Shorter than the wait for a reply: requests without a connection were not sent, and may be sent elsewhere.
CONNECT_TIMEOUT_S: Final = 2.0


class NotSent(exceptions.ConnectionError):
    """No connection could be made, so the server has not seen the command."""


class Node:
    """A server, and the connection to it: opened on first use and again after a fault."""

    def __init__(
        self,
        client: Redis,
        listeners: Listeners,
        *,
        sentinels: Sequence[Redis] = (),
        reply_timeout_s: int = REPLY_TIMEOUT_S,
    ) -> None:
        """``client`` has the server's address, or asks ``sentinels`` for the master's."""
        self.client = client
        self._sentinels = sentinels
        self._listeners = listeners
        self._of_connection = Listeners(self._on_failure, listeners.on_silence, listeners.on_connection)
        self._reply_timeout_s = reply_timeout_s
        self._connection: Connection | None = None
        self._queued: list[Request] = []
        self._opening: asyncio.Task[None] | None = None
        self._outage = Outage(logger, f"{self.name} answers again")
        self.connections = 0
        self.down = False
        self._why_not = ""

    @property
    def name(self) -> str:
        """The server's address in words, without a password."""
        options = self.client.connection_pool.connection_kwargs
        if "host" not in options:  # a Unix socket, or sentinels that know the master
            return "the Redis at REDIS_URL"
        return f"the Redis at {options['host']}:{options.get('port', 6379)}"

    @property
    def disconnects(self) -> int:
        """How many connections have ended. Knowledge of the server from before the latest end may be outdated."""
        return self.connections - (self._connection is not None and self._connection.open)

    def send(self, requests: list[Request]) -> None:
        """Send requests as soon as there is a connection."""
        if self._connection is not None and self._connection.open and not self._queued:
            self._connection.send(requests)
            return
        self._queued += requests  # in order: a read may be behind its own write
        if self._opening is None:
            # In an empty context, so that its log lines do not name the request that happens to be the first.
            self._opening = asyncio.get_running_loop().create_task(self._open(), context=Context())
            self._opening.add_done_callback(self._on_opened)

    def known(self) -> dict[Node, int]:
        """Return the servers that hold keys and a slot of each, as a Cluster does: this one, and any slot."""
        return {self: 0}

    async def close(self) -> None:
        """Wait a moment for the replies that are due, then close. A later ``send`` opens the connection again."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            await asyncio.sleep(0)  # lets `_on_opened` run
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        for client in (self.client, *self._sentinels):
            await client.aclose()

    async def _open(self) -> None:
        self._outage.interrupt()  # if there was a connection, it has ended
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._connection = Connection(await self._connect(), self._of_connection, self._reply_timeout_s)
        except Exception as cause:  # each request gets its error, and a later one tries again
            self.down = True
            self._why_not = reason(cause)
            self._outage.begin(cause, "%s does not answer: %s", self.name, self._why_not)
        else:
            self.down = False
            self._outage.end()
            self.connections += 1
            self._listeners.on_connection()

    def _on_opened(self, _: asyncio.Task[None]) -> None:
        """Send the queued requests, or fail them; also after an attempt that was cancelled before it began."""
        self._opening = None
        queued, self._queued = self._queued, []
        if self._connection is not None and self._connection.open:
            self._connection.send(queued)
            return
        for request in queued:
            self._on_failure(request, NotSent(self._why_not))

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if self._sentinels:
                await connection.send_command("ROLE")
                if (await connection.read_response())[0] != b"master":
                    raise exceptions.ConnectionError("the server that the sentinels name is no master any more")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _on_failure(self, request: Request, error: Exception) -> None:
        # A master became a replica: the next connection goes to the new master.
        if isinstance(error, exceptions.ReadOnlyError) and self._connection is not None:
            self._connection.abort()
        self._listeners.on_failure(request, error)
