"""One connection to one server: a turn's commands go out in one write, and the answers come back in their order.

redis-py opens the connection (TCP, TLS, Unix, sentinels, AUTH, SELECT); from then on its stream is read here without a
task or a lock per round trip, which costs a quarter. Nothing here knows of clusters.

Why an answer never reaches another request: answers are matched by order alone, so whatever disturbs the order (a cut,
an answer nobody waits for, bytes that are no answer, silence) ends the connection and with it every request on it. A
request that nobody waits for any more keeps its place until its answer has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from hiredis import ProtocolError, Reader
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, DefaultParser

from commands.errors import StoreUnavailable

logger: Final = logging.getLogger(__name__)

# How long a request waits for its answer; looked at once a second, so it may be a second more.
TIMEOUT_S: Final = 5
# A server that cannot be reached is given up sooner: what waits for it was not sent and can go elsewhere.
CONNECT_S: Final = 2.0
# What was sent before `close` is waited for this long.
CLOSE_S: Final = 1.0

# What a server says when it is there but cannot serve: full, a replica, loading, cut off.
_NOT_NOW: Final = (
    "OOM",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "TRYAGAIN",
    "BUSY",
)
_MORE: Final = object()


class NotSentError(exceptions.ConnectionError):
    """No connection could be made, so the server has not seen the command."""


class CutOffError(exceptions.ConnectionError):
    """The connection ended before the answer; the server may have obeyed the command or not."""


class Request(msgspec.Struct, eq=False):
    """A command as it goes over the wire, who waits for its answer, and for a cluster its slot and how long it may
    still look for the slot's server (loop time; 0 when it has not had to)."""

    packed: bytes
    future: asyncio.Future[Any]
    slot: int = 0
    held_until: float = 0.0


Failed = Callable[[Request, Exception], None]
Silent = Callable[[], None]


def translated(error: Exception) -> Exception:
    """Turn what means "Redis is not there or cannot serve" into StoreUnavailable; give back all else."""
    if isinstance(error, exceptions.ResponseError) and not str(error).startswith(_NOT_NOW):
        busy = isinstance(error, exceptions.OutOfMemoryError | exceptions.ReadOnlyError)
        return StoreUnavailable() if busy else error
    if isinstance(error, exceptions.RedisError | OSError | asyncio.TimeoutError):
        return StoreUnavailable()
    return error


def refuse(request: Request, error: Exception) -> None:
    """Let a request's caller know, if he still waits."""
    if not request.future.done():
        request.future.set_exception(translated(error))


class Wire(asyncio.Protocol):
    """An open connection and the requests on it, oldest first."""

    def __init__(self, connection: AbstractConnection, failed: Failed, silent: Silent) -> None:
        """Take over a connection that redis-py has opened. ``failed`` gets what has no answer, or an error for one;
        ``silent`` is called for each second in which nothing came of what was waiting."""
        writer = connection._writer
        assert writer is not None
        self._connection = connection  # its writer would close the transport if it was collected
        self._transport: asyncio.WriteTransport = writer.transport
        self._failed, self._silent = failed, silent
        self._reader = Reader(notEnoughData=_MORE, replyError=DefaultParser.parse_error)
        self._waiting: deque[Request] = deque()
        self._sent = 0
        # How much had been answered and sent at each of the latest seconds.
        self._marks: deque[tuple[int, int]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._lost = self._loop.create_future()
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.connection_lost(None)

    @property
    def open(self) -> bool:
        """Whether requests may be sent. A TLS transport that is lost does not call itself closing any more."""
        return not (self._lost.done() or self._transport.is_closing())

    def send(self, requests: list[Request]) -> None:
        """Send requests in one write."""
        self._waiting.extend(requests)
        self._sent += len(requests)
        if self._timer is None:
            self._timer = self._loop.call_later(1, self._watch)
        self._transport.write(b"".join([request.packed for request in requests]))

    def cut(self) -> None:
        """End the connection at once; every request on it fails."""
        self._transport.abort()

    async def close(self) -> None:
        """Wait a moment for the answers that are under way, then end the connection."""
        under_way = [request.future for request in self._waiting]
        if under_way:
            await asyncio.wait(under_way, timeout=CLOSE_S)
        self.cut()
        await asyncio.wait([self._lost], timeout=CLOSE_S)

    def data_received(self, data: bytes) -> None:
        """Hand out the answers in these bytes."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not _MORE:
                if not waiting:
                    raise ProtocolError("an answer that nobody has asked for")
                request = waiting.popleft()
                if isinstance(answer, Exception):
                    self._failed(request, answer)
                elif not request.future.done():  # else who asked has gone
                    request.future.set_result(answer)
        except ProtocolError as error:
            logger.warning("the read store sends what is no answer: %s", error)
            self.cut()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits: whether the server obeyed, nobody can say."""
        if self._lost.done():
            return
        self._lost.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        self._connection._close()  # type: ignore[no-untyped-call]
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            self._failed(request, CutOffError())

    def _watch(self) -> None:
        """Each second while something waits: end the connection when what was there TIMEOUT_S ago still is."""
        self._timer = None
        answered = self._sent - len(self._waiting)
        if self._marks and answered <= self._marks[-1][0] and self._marks[-1][0] < self._marks[-1][1]:
            self._silent()
        self._marks.append((answered, self._sent))
        if not self._waiting:
            self._marks.clear()
        elif len(self._marks) > TIMEOUT_S and answered < self._marks.popleft()[1]:
            logger.warning("the read store has not answered for %d s", TIMEOUT_S)
            self.cut()
        else:
            self._timer = self._loop.call_later(1, self._watch)


class Server:
    """A server as this process talks to it: over one connection, opened on first use and again after a fault."""

    def __init__(
        self,
        client: Redis,
        *,
        sentinels: Sequence[Redis] = (),
        failed: Failed = refuse,
        silent: Silent = lambda: None,
    ) -> None:
        """``client`` names the server, or is told by ``sentinels`` who is master; the rest is as for Wire."""
        self.client = client
        self._sentinels = sentinels
        self._tell, self._silent = failed, silent
        self._wire: Wire | None = None
        self._queued: list[Request] = []
        self._opening: asyncio.Task[None] | None = None
        self.down = False

    def send(self, requests: list[Request]) -> None:
        """Send requests as soon as there is a connection. What fails is told, each request by itself."""
        if self._wire is not None and self._wire.open and not self._queued:
            self._wire.send(requests)
            return
        self._queued += requests  # never past what waits already: a read may be behind its own write
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)

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
                self._wire = Wire(await self._connect(), self._failed, self._silent)
        except (exceptions.RedisError, OSError) as cause:
            self._note(cause)
        else:
            self._note(None)

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
