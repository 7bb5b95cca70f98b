"""One server as this process talks to it: over a single connection, which redis-py opens (TCP, TLS, Unix socket, AUTH,
SELECT, the way by sentinels) and projections/wire.py then uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from projections.wire import Check, Failed, Request, Returned, Silent, Wire, refuse

logger: Final = logging.getLogger(__name__)

# A server that cannot be reached is given up sooner than one that does not answer: what waits for it was not sent.
CONNECT_S: Final = 2.0


class NotSentError(exceptions.ConnectionError):
    """No connection could be made, so the server has not seen the command."""


class Server:
    """A server as this process talks to it: over one connection, opened on first use and again after a fault."""

    def __init__(
        self,
        client: Redis,
        *,
        sentinels: Sequence[Redis] = (),
        failed: Failed = refuse,
        silent: Silent = lambda: None,
        returned: Returned = lambda: None,
        check: Check | None = None,
    ) -> None:
        """``client`` names the server, or is told by ``sentinels`` who is master; the rest is as for Wire, but
        ``returned`` is called for a new connection in the place of a lost one, too."""
        self.client = client
        self._sentinels = sentinels
        self._tell, self._silent, self._returned, self._check = failed, silent, returned, check
        self._wire: Wire | None = None
        self._queued: list[Request] = []
        self._opening: asyncio.Task[None] | None = None
        self.connections = 0
        self.down = False

    @property
    def breaks(self) -> int:
        """How many connections have ended: what was known of the server before one did may not be so any more."""
        return self.connections - (self._wire is not None and self._wire.open)

    def send(self, requests: list[Request]) -> None:
        """Send requests as soon as there is a connection. What fails is told, each request by itself."""
        if self._wire is not None and self._wire.open and not self._queued:
            self._wire.send(requests)
            return
        self._queued += requests  # never past what waits already: a read may be behind its own write
        if self._opening is None:
            # Opened for all who will use it, so its lines are not of the request that happens to be the first.
            self._opening = asyncio.get_running_loop().create_task(self._open(), context=Context())
            self._opening.add_done_callback(self._opened)

    def known(self) -> list[Server]:
        """The servers that hold keys, as of a Cluster; here this one."""
        return [self]

    async def slots(self) -> list[int]:
        """A slot of each server that holds keys, as of a Cluster; here any one means the only server."""
        return [0]

    async def close(self) -> None:
        """Wait a moment for the answers that are under way, then close. What is sent after that opens it again."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            await asyncio.sleep(0)  # for what is told of its end
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()
        for client in (self.client, *self._sentinels):
            await client.aclose()

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                self._wire = Wire(await self._connect(), self._failed, self._silent, self._returned, self._check)
        except (exceptions.RedisError, OSError) as cause:
            self._note(cause)
        else:
            self._note(None)
            self.connections += 1
            if self.connections > 1:
                self._returned()

    def _opened(self, opening: asyncio.Task[None]) -> None:
        """Send what was queued, or fail it; also after an attempt that was cancelled before it had begun."""
        self._opening = None
        queued, self._queued = self._queued, []
        if not opening.cancelled() and (fault := opening.exception()) is not None:
            logger.error("no connection to the read store", exc_info=fault)
        if self._wire is not None and self._wire.open:
            self._wire.send(queued)
            return
        for request in queued:
            self._failed(request, NotSentError())

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if self._sentinels:
                await connection.send_command("ROLE")
                if (await connection.read_response())[0] != b"master":
                    raise exceptions.ConnectionError("the sentinels name a server that is no master any more")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _failed(self, request: Request, error: Exception) -> None:
        # A master that was made a replica: the next connection goes to whoever is master then.
        if isinstance(error, exceptions.ReadOnlyError) and self._wire is not None:
            self._wire.cut()
        self._tell(request, error)

    def _note(self, cause: Exception | None) -> None:
        """Log when the server goes and comes, not each time that it is not there."""
        if cause is not None and not self.down:
            logger.warning("the read store does not answer: %s", str(cause) or type(cause).__name__)
        elif cause is None and self.down:
            logger.info("the read store answers again")
        self.down = cause is not None
