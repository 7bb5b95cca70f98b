"""One connection to one server: a turn's commands go out in one write, and the answers come back in their order.

redis-py opens the connection (see projections/server.py); from then on its stream is read here, without a task and a
lock for each round trip: 19 us of CPU instead of 58. Nothing here knows of clusters.

Why an answer never reaches another request: answers are matched by order alone, so whatever disturbs the order (a cut,
an answer nobody waits for, bytes that are no answer, silence) ends the connection and with it every request on it. A
request that nobody waits for any more keeps its place until its answer has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Any, Final

import msgspec
from hiredis import ProtocolError, Reader
from redis import exceptions
from redis.asyncio.connection import AbstractConnection, DefaultParser

from commands.errors import StoreUnavailable

logger: Final = logging.getLogger(__name__)

# How long a request waits for its answer; looked at once a second, so it may be a second more.
TIMEOUT_S: Final = 5
# Nothing came for so many ticks although something was waited for: the server was silent, and not just this process
# busy, which has its ticks late then, but not more of them.
TICK_S: Final = 0.1
TICKS_A_SECOND: Final = 10
SILENT_TICKS: Final = 4
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


class CutOffError(exceptions.ConnectionError):
    """The connection ended before the answer; the server may have obeyed the command or not."""


class DoubtfulError(exceptions.RedisError):
    """The server has answered, but may have dropped what was asked for."""


class Request(msgspec.Struct, eq=False):
    """A command as it goes over the wire, who waits for its answer, and for a cluster its slot and how long it may
    still look for the slot's server (loop time; 0 when it has not had to).

    Several commands can be one request: ``left`` is how many answers are still to come, ``answers`` those that have.
    What is ``unguarded`` is answered whether the server can be believed or not.
    """

    packed: bytes
    future: asyncio.Future[Any]
    slot: int = 0
    held_until: float = 0.0
    left: int = 0
    answers: list[Any] = msgspec.field(default_factory=list)
    unguarded: bool = False


class Check(msgspec.Struct, frozen=True):
    """How it is found out whether a server can be believed: ``holds`` says so of its answer to ``packed`` and of when
    that was asked (``time.monotonic``)."""

    packed: bytes
    holds: Callable[[bytes, float], bool]


Failed = Callable[[Request, Exception], None]
Silent = Callable[[], None]
Returned = Callable[[], None]


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


def nobody() -> asyncio.Future[Any]:
    """Who waits for an answer that concerns no caller."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


def _gather(request: Request, answer: Any) -> Any:
    """Add one answer of several; give what the request as a whole is answered: the list, or the first error in it."""
    answers = request.answers
    answers.append(answer)
    request.left -= 1
    if request.left:
        return None
    return next((each for each in answers if isinstance(each, Exception)), answers)


class Wire(asyncio.Protocol):
    """An open connection and the requests on it, oldest first."""

    def __init__(
        self,
        connection: AbstractConnection,
        failed: Failed,
        silent: Silent,
        returned: Returned,
        check: Check | None = None,
    ) -> None:
        """Take over a connection that redis-py has opened. ``failed`` gets what has no answer, or an error for one;
        ``silent`` is called for each second in which nothing came of what was waiting, ``returned`` before anybody gets
        the first answer after a silence, or after the server has read its file. With ``check`` the answers to what was
        sent together are kept until the server has answered that behind them, and refused if it does not hold."""
        writer = connection._writer
        assert writer is not None
        self._connection = connection  # its writer would close the transport if it was collected
        self._transport: asyncio.WriteTransport = writer.transport
        self._failed, self._silent, self._returned = failed, silent, returned
        self._ticks = self._quiet = 0
        self._loading = False
        self._reader = Reader(notEnoughData=_MORE, replyError=DefaultParser.parse_error)
        self._waiting: deque[Request] = deque()
        self._sent = 0
        self._check, self._checking = check, Request(check.packed, nobody()) if check is not None else None
        self._kept: list[tuple[Request, Any]] = []
        self._checked_at: deque[float] = deque()
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
        if self._checking is not None and not all(request.unguarded for request in requests):
            requests = [*requests, self._checking]
            self._checked_at.append(monotonic())
        self._waiting.extend(requests)
        self._sent += len(requests)
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick, context=Context())  # watches for all who wait
        self._transport.write(b"".join([request.packed for request in requests]))

    def cut(self) -> None:
        """End the connection at once; every request on it fails."""
        self._transport.abort()

    async def close(self) -> None:
        """Wait a moment for the answers that are under way, then end the connection."""
        under_way = [request.future for request in self._under_way()]
        if under_way:
            await asyncio.wait(under_way, timeout=CLOSE_S)
        self.cut()
        await asyncio.wait([self._lost], timeout=CLOSE_S)

    def data_received(self, data: bytes) -> None:
        """Hand out the answers in these bytes."""
        reader, waiting = self._reader, self._waiting
        if self._quiet:
            if self._quiet > SILENT_TICKS:
                self._returned()
            self._quiet = 0
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not _MORE:
                if not waiting:
                    raise ProtocolError("an answer that nobody has asked for")
                request = waiting[0]
                if request.left:
                    answer = _gather(request, answer)
                    if request.left:
                        continue
                waiting.popleft()
                if request is self._checking:  # answered also by a server that reads its file
                    self._hand_out(answer)
                    continue
                failed = isinstance(answer, Exception)
                if failed and isinstance(answer, exceptions.BusyLoadingError):
                    self._loading = True
                elif self._loading:
                    self._loading = False
                    self._returned()
                if failed:
                    self._failed(request, answer)
                elif self._checking is not None and not request.unguarded:
                    self._kept.append((request, answer))
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
        waiting, self._waiting, self._kept = self._under_way(), deque(), []
        for request in waiting:
            self._failed(request, CutOffError())

    def _hand_out(self, checked: Any) -> None:
        """Answer what was sent before the check, or refuse it; ``checked`` is what the server said, or an error."""
        assert self._check is not None
        asked_at = self._checked_at.popleft()
        holds = not isinstance(checked, Exception) and self._check.holds(checked, asked_at)
        kept, self._kept = self._kept, []
        for request, answer in kept:
            if not holds:
                refuse(request, DoubtfulError())
            elif not request.future.done():
                request.future.set_result(answer)

    def _under_way(self) -> list[Request]:
        """What nobody has been answered yet, oldest first."""
        return [*[request for request, _ in self._kept], *self._waiting]

    def _tick(self) -> None:
        """While something waits: count the ticks since anything came, and look closer each second."""
        self._timer = None
        self._ticks += 1
        self._quiet += 1
        if not self._waiting:
            self._ticks = self._quiet = 0
            self._marks.clear()
            return
        if self._ticks % TICKS_A_SECOND == 0:
            self._watch()
        if self.open:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _watch(self) -> None:
        """End the connection when what was there TIMEOUT_S ago still is."""
        answered = self._sent - len(self._waiting)
        if self._marks and answered <= self._marks[-1][0] and self._marks[-1][0] < self._marks[-1][1]:
            self._silent()
        self._marks.append((answered, self._sent))
        if len(self._marks) > TIMEOUT_S and answered < self._marks.popleft()[1]:
            logger.warning("the read store has not answered for %d s", TIMEOUT_S)
            self.cut()
