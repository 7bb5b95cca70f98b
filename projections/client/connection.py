"""One connection to one server: a turn's commands go out in one write, and replies come back in the same order.

redis-py opens the connection (see projections/client/node.py); from then on its stream is read here, without a task
and a lock for each round trip: 19 us of CPU instead of 58. Nothing here knows of clusters.

Why a reply never reaches another request: replies are matched by order alone, so whatever disturbs the order (a lost
connection, a reply without a request, bytes that are not a reply, silence) ends the connection and fails every request
on it. A cancelled request keeps its place until its reply has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

import msgspec
from hiredis import ProtocolError, Reader
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, DefaultParser

from commands.errors import ViewsUnavailable

logger: Final = logging.getLogger(__name__)

# How long a request waits for its reply. Checked once a second, so it may be a second more.
REPLY_TIMEOUT_S: Final = 5
# A server is silent when nothing came for more than this number of ticks although a reply was due. A busy process has
# its ticks late, but not more of them, so its own delays do not count.
TICK_S: Final = 0.1
TICKS_A_SECOND: Final = 10
SILENT_TICKS: Final = 4
# How long `close` waits for the replies that are still due.
CLOSE_TIMEOUT_S: Final = 1.0

# The errors of a server that is there but cannot serve: full, a replica, loading, cut off from its master.
_CANNOT_SERVE: Final = (
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


class ConnectionLost(exceptions.ConnectionError):
    """The connection ended before the reply; the server may have executed the command or not."""


class Request(msgspec.Struct, eq=False):
    """One command, or several as one, in the form that is sent, and the future of its reply.

    Of several commands ``replies_due`` counts the replies still to come, ``replies`` holds those that have. In a
    cluster ``slot`` says which server gets it, and ``retry_until`` (loop time) how long that server may still be looked
    for; 0 before the first try. ``while_loading``: a server replies also while it loads its file.
    """

    packed: bytes
    future: asyncio.Future[Any]
    slot: int = 0
    retry_until: float = 0.0
    replies_due: int = 0
    replies: list[Any] = msgspec.field(default_factory=list)
    while_loading: bool = False


class Listeners(msgspec.Struct, frozen=True):
    """Functions that a connection calls.

    ``on_failure`` gets each request without a reply, or with an error as its reply. ``on_silence`` is called for each
    second in which no due reply came. ``on_connection`` is called when a server may have lost writes or missed some:
    before the first reply after a silence, after its file was loaded, on a new connection or from a new master.
    """

    on_failure: Callable[[Request, Exception], None]
    on_silence: Callable[[], None] = lambda: None
    on_connection: Callable[[], None] = lambda: None


def translated(error: Exception) -> Exception:
    """Return ViewsUnavailable for an error that means "Redis is not there or cannot serve", else the error itself."""
    if isinstance(error, exceptions.ResponseError) and not str(error).startswith(_CANNOT_SERVE):
        # The last one: an operator has changed what the user may do since the start.
        cannot = exceptions.OutOfMemoryError, exceptions.ReadOnlyError, exceptions.NoPermissionError
        return ViewsUnavailable(said=str(error)) if isinstance(error, cannot) else error
    if isinstance(error, exceptions.RedisError | OSError | asyncio.TimeoutError):
        return ViewsUnavailable(said=str(error) or type(error).__name__)
    return error


def fail(request: Request, error: Exception) -> None:
    """Raise ``error``, translated, in the request's caller if it still waits."""
    if not request.future.done():
        request.future.set_exception(translated(error))


def no_caller() -> asyncio.Future[Any]:
    """Return the future of a request whose reply no caller waits for."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


def _collect(request: Request, reply: Any) -> Any:
    """Add one reply of several. Return the reply to the whole: the list, or the first error in it; None until then."""
    replies = request.replies
    replies.append(reply)
    request.replies_due -= 1
    if request.replies_due:
        return None
    return next((each for each in replies if isinstance(each, Exception)), replies)


class Connection(asyncio.Protocol):
    """An open connection and the requests on it, oldest first."""

    def __init__(
        self, connection: AbstractConnection, listeners: Listeners, reply_timeout_s: int = REPLY_TIMEOUT_S
    ) -> None:
        """Take over a connection that redis-py has opened."""
        writer = connection._writer
        assert writer is not None
        self._connection = connection  # its writer would close the transport if it was collected
        self._transport: asyncio.WriteTransport = writer.transport
        self._listeners = listeners
        self._reply_timeout_s = reply_timeout_s
        self._ticks = self._quiet_ticks = 0
        self._loading = False
        self._reader = Reader(notEnoughData=_MORE, replyError=DefaultParser.parse_error)
        self._waiting: deque[Request] = deque()
        self._sent = 0
        # (requests replied to, requests sent) at each of the latest seconds.
        self._marks: deque[tuple[int, int]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._lost = self._loop.create_future()
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.connection_lost(None)

    @property
    def open(self) -> bool:
        """Return whether requests may be sent. A TLS transport that is lost no longer says that it is closing."""
        return not (self._lost.done() or self._transport.is_closing())

    def send(self, requests: list[Request]) -> None:
        """Send requests in one write."""
        self._waiting.extend(requests)
        self._sent += len(requests)
        if self._timer is None:  # in an empty context, since it watches the requests of all callers
            self._timer = self._loop.call_later(TICK_S, self._tick, context=Context())
        self._transport.write(b"".join([request.packed for request in requests]))

    def abort(self) -> None:
        """End the connection at once; every request on it fails."""
        self._transport.abort()

    async def close(self) -> None:
        """Wait up to CLOSE_TIMEOUT_S for the replies that are due, then end the connection."""
        if self._waiting:
            await asyncio.wait([request.future for request in self._waiting], timeout=CLOSE_TIMEOUT_S)
        self.abort()
        await asyncio.wait([self._lost], timeout=CLOSE_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        """Match each reply in these bytes to its request."""
        reader, waiting = self._reader, self._waiting
        if self._quiet_ticks:
            if self._quiet_ticks > SILENT_TICKS:
                self._listeners.on_connection()
            self._quiet_ticks = 0
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                if not waiting:
                    raise ProtocolError("a reply without a request")
                request = waiting[0]
                if request.replies_due:
                    reply = _collect(request, reply)
                    if request.replies_due:
                        continue
                waiting.popleft()
                failed = isinstance(reply, Exception)
                if failed and isinstance(reply, exceptions.BusyLoadingError):
                    self._loading = True
                elif self._loading and not request.while_loading:
                    self._loading = False
                    self._listeners.on_connection()
                if failed:
                    self._listeners.on_failure(request, reply)
                elif not request.future.done():  # else it was cancelled
                    request.future.set_result(reply)
        except ProtocolError as error:
            logger.warning("Redis sent bytes that are no reply (%s): the connection is closed", error)
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the requests without a reply: the server may have executed them or not."""
        if self._lost.done():
            return
        self._lost.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
        self._connection._close()  # type: ignore[no-untyped-call]
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            self._listeners.on_failure(request, ConnectionLost("the connection ended before the reply"))

    def _tick(self) -> None:
        """Count the ticks since anything came while replies are due, and check the timeout each second."""
        self._timer = None
        self._ticks += 1
        self._quiet_ticks += 1
        if not self._waiting:
            self._ticks = self._quiet_ticks = 0
            self._marks.clear()
            return
        if self._ticks % TICKS_A_SECOND == 0:
            self._check_timeout()
        if self.open:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _check_timeout(self) -> None:
        """End the connection when a request of ``reply_timeout_s`` ago still has no reply."""
        replied = self._sent - len(self._waiting)
        if self._marks and replied <= self._marks[-1][0] and self._marks[-1][0] < self._marks[-1][1]:
            self._listeners.on_silence()
        self._marks.append((replied, self._sent))
        if len(self._marks) > self._reply_timeout_s and replied < self._marks.popleft()[1]:
            logger.warning("Redis has not replied for %d s: the connection is closed", self._reply_timeout_s)
            self.abort()
