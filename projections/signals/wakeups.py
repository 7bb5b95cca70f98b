"""Wake-ups between the processes, over the queue's Redis: "the log has grown" and "the views have come this far".

Both are hints. A lost one costs time and nothing else: workers read the log at least once a second, and callers that
wait for a position poll the views in the end.

While both sides are connected no wake-up is lost. A worker subscribes before it reads the log: what was committed and
published before that is read, and what is published later waits in the socket. When no worker is subscribed, PUBLISH
says so, and the sender enqueues a job that wakes one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context
from functools import partial
from typing import Any, Final, TypeVar, cast

import msgspec
from arq.connections import ArqRedis
from redis.asyncio.client import PubSub

from projections.keys import LogNames
from projections.outages import Outage, reason
from projections.signals.job_queue import DUE, WAKE_JOB, WAKE_JOB_EXPIRES_S, QueueSettings, open_queue

logger: Final = logging.getLogger(__name__)

_T = TypeVar("_T")

# The queue only makes things faster, so no caller waits for it longer than this.
QUEUE_TIMEOUT_S: Final = 0.5


class Wakeup:
    """The connection of a process that publishes wake-ups; opened on first use, again after a fault.

    Nothing here raises when the queue is away or does not answer within ``QUEUE_TIMEOUT_S``: that is logged, and the
    message may be lost. Nothing is sent before the names of the log are known.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._opening: asyncio.Task[ArqRedis] | None = None
        self._position = 0
        self._sender: asyncio.Task[None] | None = None
        self._outage = Outage(logger, "the queue answers again")

    def send(self, position: int) -> None:
        """Wake the workers, as the log has grown to ``position``; does not wait."""
        self._position = max(self._position, position)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def publish(self, channel: Callable[[LogNames], str], messages: Iterable[bytes]) -> bool:
        """Publish the messages in order, in one round trip; return whether all were certainly published."""
        return await self.ask(lambda queue, names: _publish(queue, channel(names), messages)) is not None

    async def ask(self, work: Callable[[ArqRedis, LogNames], Awaitable[_T]]) -> _T | None:
        """Return what ``work`` returns, or None when the queue does not answer in time."""
        if (names := self._settings.names) is None:
            return None
        try:
            async with asyncio.timeout(QUEUE_TIMEOUT_S):
                answer = await work(await self._open(), names)
        except Exception as error:  # of any class: what is in the log must not fail; its text may repeat what was sent
            self._outage.begin(error, "the queue does not answer: %s", reason(error))
            return None
        self._outage.end()
        return answer

    async def close(self) -> None:
        """Send the last wake-up and close the connection."""
        if self._sender is not None:
            await self._sender
        if self._opening is not None:
            await asyncio.wait([self._opening])
            if self._opening.exception() is None:
                await self._opening.result().aclose()

    async def _open(self) -> ArqRedis:
        """Return the one connection; a caller that stops waiting for it does not close it for the others."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.get_running_loop().create_task(open_queue(self._settings), context=Context())
        return await asyncio.shield(self._opening)

    async def _send(self) -> None:
        sent: int | None = -1
        while sent is not None and sent < self._position:
            sent = await self.ask(partial(_wake, position=self._position))


async def _publish(queue: ArqRedis, channel: str, messages: Iterable[bytes]) -> list[int]:
    """Publish each message; return the numbers of subscribers that received them."""
    async with queue.pipeline(transaction=False) as pipeline:
        for message in messages:
            pipeline.publish(channel, message)
        return await pipeline.execute()


async def _wake(queue: ArqRedis, names: LogNames, position: int) -> int:
    if not await queue.publish(names.wake_channel(), position):
        await queue.enqueue_job(
            WAKE_JOB,
            _job_id=names.job(WAKE_JOB),
            _queue_name=names.queue(),
            _defer_until=DUE,
            _expires=WAKE_JOB_EXPIRES_S,
        )
    return position


class ListenerTiming(msgspec.Struct, frozen=True):
    """How long a ``Listener`` waits, in seconds."""

    # Between the end of a connection and the next try.
    reconnect_s: float = 0.5
    # A channel that has been silent for this long is pinged: the end of a server may go unnoticed otherwise.
    silent_s: float = 5.0
    # A server that does not answer the ping within this is gone.
    pong_timeout_s: float = 5.0


class Listener:
    """A subscription to a channel of the queue's Redis that connects again after a fault.

    It begins when the names of the log are known.
    """

    def __init__(
        self,
        settings: QueueSettings,
        channel: Callable[[LogNames], str],
        on_message: Callable[[bytes | None], None],
        timing: ListenerTiming | None = None,
    ) -> None:
        """``on_message`` is called with each message, and with None when some may have been missed."""
        self.settings, self._channel, self._on_message = settings, channel, on_message
        self._timing = timing or ListenerTiming()
        self._task: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()
        self._unreadable: set[str] = set()
        self._name = channel.__name__.removesuffix("_channel")
        self._outage = Outage(logger, f"{self._name} messages arrive again")

    @property
    def is_subscribed(self) -> bool:
        """Return whether messages arrive now, as far as is known."""
        return self._subscribed.is_set()

    async def start(self, wait_s: float = 2.0) -> None:
        """Subscribe in the background; return when subscribed, or after ``wait_s``; at once before the names of
        the log are known. Call it again to wait again."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if self.settings.names is None:
            return
        try:
            async with asyncio.timeout(wait_s):  # wait_for can swallow a cancellation
                await self._subscribed.wait()
        except TimeoutError as error:
            self._begin_outage(error)

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # of any class: messages must arrive again
                self._begin_outage(error)
            await asyncio.sleep(self._timing.reconnect_s)

    def _begin_outage(self, error: Exception) -> None:
        self._outage.begin(error, "the queue does not answer: %s messages are missed (%s)", self._name, reason(error))

    async def _listen(self) -> None:
        if (names := self.settings.names) is None:
            return
        queue = await open_queue(self.settings)
        try:
            async with queue.pubsub() as pubsub:
                try:
                    await pubsub.subscribe(self._channel(names))
                    while True:
                        self._handle(await self._next(pubsub))
                finally:
                    if self._subscribed.is_set():
                        self._subscribed.clear()
                        self._on_message(None)  # from now on messages are missed
        finally:
            await queue.aclose()

    def _handle(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._subscribed.set()
            self._outage.end()
            self._on_message(None)  # there may have been messages before
        elif message["type"] == "message":
            try:
                self._on_message(message["data"])
            except Exception as error:  # sent by another version or by hand, or a bug: the next one must arrive
                self._log_unreadable(error)
                self._on_message(None)

    def _log_unreadable(self, error: Exception) -> None:
        """Log one line for each class of error, however many such messages come."""
        kind = type(error).__name__
        if kind not in self._unreadable:
            self._unreadable.add(kind)
            logger.error("a %s message cannot be read and is left out (%s: %s)", self._name, kind, str(error)[:80])

    async def _next(self, pubsub: PubSub) -> Mapping[str, Any]:
        """Return the next message. Raise TimeoutError when none arrives and the server does not answer a ping.

        A server that hangs or has vanished would go unnoticed on a connection that only reads.
        """
        message = await pubsub.get_message(timeout=self._timing.silent_s)
        if message is None:
            await pubsub.ping()
            message = await pubsub.get_message(timeout=self._timing.pong_timeout_s)
        if message is None:
            raise TimeoutError
        return cast(Mapping[str, Any], message)
