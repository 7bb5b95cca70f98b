"""Wake-ups between the processes, over the queue's Redis: "the log has grown" and "the views have come so far".

Both are hints. A lost one costs time, never truth: drains read the log at least once a second whatever they hear, and
who waits for a position asks the views themselves in the end.

Why no wake-up is lost while both sides live: a drain subscribes before it reads the log. A commit published before the
subscription is read; one published after it is waiting in the socket when the drain listens. When nobody is subscribed,
``PUBLISH`` says so, and the sender enqueues a drain as an arq job.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
from arq.connections import ArqRedis, RedisSettings, create_pool
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from commands.errors import SettingsError, Unavailable
from projections.addresses import open_sentinels, parse_address
from projections.keys import GROUPS, LATE_CHANNEL, QUEUE, REBUILD_QUEUE, WAKE_CHANNEL

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

RECONNECT_S: Final = 0.5
# To connect, and until the server has said its first word.
OPEN_S: Final = 2
# A sentinel that does not answer is left for the next one after so long, so that two are asked within QUEUE_S.
SENTINEL_S: Final = 0.2
# The queue is of use only for speed, so nobody waits for it longer than this.
QUEUE_S: Final = 0.5
# A channel that has been silent for so long is asked whether it is still there, and has so long for its answer.
SILENT_S: Final = 5.0
PONG_S: Final = 5.0
# Of more changed profiles than these a message names none: to forget all is less work then.
CHANGED_MAX: Final = 1_000
# There is one rebuild at a time, and it is worth waiting for.
REBUILD_JOB: Final = "rebuild"
REBUILD_EXPIRES_S: Final = 30 * 86_400


# What a worker says of its progress: position, groups, generation, whose profiles have changed, and where the lanes
# stand that it has just written.
_messages: Final = msgspec.json.Decoder(tuple[int, list[int], int, list[int] | None, dict[int, int]])


class QueueUnavailable(Unavailable):
    """The queue's Redis does not answer."""

    def __init__(self) -> None:
        super().__init__("the queue is not available")


class QueueSettings(msgspec.Struct, frozen=True):
    """Where arq's queue and the wake-ups are: a plain Redis or the master of sentinels, never a cluster."""

    queue_url: str

    @classmethod
    def from_env(cls) -> QueueSettings:
        """Read QUEUE_URL, else REDIS_URL; raises SettingsError when both are missing or it is a cluster's."""
        given = os.environ.get("QUEUE_URL", "")
        url = given or os.environ.get("REDIS_URL", "")
        if not url:
            raise SettingsError("neither QUEUE_URL nor REDIS_URL is set")
        if parse_address(url, "QUEUE_URL" if given else "REDIS_URL").kind == "cluster":
            raise SettingsError("QUEUE_URL must name a plain Redis: the views can be in a cluster, arq's queue cannot")
        return cls(url)


def redis_settings(settings: QueueSettings) -> RedisSettings:
    """The queue's address in arq's form; one quick try, since who asks has his own way to try again."""
    address = parse_address(settings.queue_url, "QUEUE_URL")
    if address.kind == "sentinel":
        options = address.options
        redis = RedisSettings(host=address.hosts, sentinel=True, sentinel_master=address.master)
        redis.database, redis.ssl = options.get("db", 0), "connection_class" in options
        redis.username, redis.password = options.get("username"), options.get("password")
    else:
        redis = RedisSettings.from_dsn(settings.queue_url)
    redis.conn_retries = 0
    redis.conn_timeout = OPEN_S
    return redis


# arq puts exceptions into results; their words are kept.
encode_job: Final = msgspec.msgpack.Encoder(enc_hook=str).encode


async def open_queue(settings: QueueSettings) -> ArqRedis:
    """Connect to the queue with arq's serialisers set to msgpack (its default is pickle).

    Raises RedisError or OSError, also when it takes longer than ``OPEN_S``.
    """
    usual: dict[str, Any] = {
        "default_queue_name": QUEUE,
        "job_serializer": encode_job,
        "job_deserializer": msgspec.msgpack.decode,
    }
    async with asyncio.timeout(OPEN_S):
        address = parse_address(settings.queue_url, "QUEUE_URL")
        if address.kind != "sentinel":
            return await create_pool(redis_settings(settings), **usual)
        # arq would wait for a sentinel whose host has vanished until the kernel gives up, before it asks the next.
        sentinels = open_sentinels(address, {"socket_connect_timeout": SENTINEL_S, "socket_timeout": OPEN_S})
        for sentinel in sentinels.sentinels:
            sentinel.connection_pool.connection_kwargs["socket_timeout"] = SENTINEL_S
        queue: ArqRedis = sentinels.master_for(address.master, redis_class=ArqRedis)
        for name, value in usual.items():
            setattr(queue, name, value)
        await queue.ping()
        return queue


async def enqueue_rebuild(settings: QueueSettings, order: dict[str, Any]) -> bool:
    """Enqueue a rebuild for the rebuilder process; False when one is queued or running. Raises QueueUnavailable."""
    try:
        queue = await open_queue(settings)
        try:
            job = await queue.enqueue_job(
                "rebuild", order, _job_id=REBUILD_JOB, _queue_name=REBUILD_QUEUE, _expires=REBUILD_EXPIRES_S
            )
        finally:
            await queue.aclose()
    except (RedisError, OSError) as error:
        raise QueueUnavailable from error
    return job is not None


class Wakeup:
    """The queue's connection of a process that has something to tell; opened on first use, again after a fault.

    Nothing here raises for a queue that is away or does not answer within ``QUEUE_S``: that is logged, and what was to
    be told may go unheard.
    """

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._opening: asyncio.Task[ArqRedis] | None = None
        self._position = 0
        self._sender: asyncio.Task[None] | None = None

    def send(self, position: int) -> None:
        """Tell the drains that the log has grown to ``position``; does not wait."""
        self._position = max(self._position, position)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def publish(self, channel: str, messages: Iterable[bytes]) -> bool:
        """Publish all of them, in order and in one round trip; whether that is certain."""
        return await self._ask(lambda queue: _publish(queue, channel, messages)) is not None

    async def tell_late(self, positions: Mapping[str, int]) -> bool:
        """Tell every web process that these callers have been answered before the views showed their positions; for
        when that cannot be kept in Redis, which takes no writes but passes messages on. Whether that is certain."""
        return await self.publish(LATE_CHANNEL, [msgspec.json.encode(late) for late in positions.items()])

    async def enqueue(self, job: str, *arguments: Any, job_id: str) -> None:
        """Enqueue an arq job, once per ``job_id``; a sweep must find the same work by itself."""
        await self._ask(lambda queue: queue.enqueue_job(job, *arguments, _job_id=job_id))

    async def close(self) -> None:
        """Finish what is on its way and close."""
        if self._sender is not None:
            await self._sender
        if self._opening is not None:
            await asyncio.wait([self._opening])
            if self._opening.exception() is None:
                await self._opening.result().aclose()

    async def _ask(self, work: Callable[[ArqRedis], Awaitable[T]]) -> T | None:
        """What ``work`` gives; None when the queue does not answer."""
        try:
            async with asyncio.timeout(QUEUE_S):
                return await work(await self._open())
        except (RedisError, OSError) as error:  # a timeout is one of the latter; its words may be those of a message
            logger.warning("the queue does not answer: %s", type(error).__name__)
            return None

    async def _open(self) -> ArqRedis:
        """One connection for all who want it at once, and whoever stops waiting leaves it to the others."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.get_running_loop().create_task(open_queue(self._settings), context=Context())
        return await asyncio.shield(self._opening)

    async def _send(self) -> None:
        sent: int | None = -1
        while sent is not None and sent < self._position:
            sent = await self._ask(partial(_wake, position=self._position))


async def _publish(queue: ArqRedis, channel: str, messages: Iterable[bytes]) -> list[int]:
    """How many have heard each."""
    async with queue.pipeline(transaction=False) as pipeline:
        for message in messages:
            pipeline.publish(channel, message)
        return await pipeline.execute()


async def _wake(queue: ArqRedis, position: int) -> int:
    if not await queue.publish(WAKE_CHANNEL, position):
        await queue.enqueue_job("drain", _job_id="drain")
    return position


class Listener:
    """Hears a channel of the queue's Redis; after a fault it connects again and lets that count as a message."""

    def __init__(self, settings: QueueSettings, channel: str, hear: Callable[[bytes | None], None]) -> None:
        """``hear`` gets each message, and None for "there may have been some"."""
        self.settings, self._channel, self._hear = settings, channel, hear
        self._task: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    async def start(self, patience_s: float = 2.0) -> None:
        """Begin to listen; returns when subscribed, or after ``patience_s`` in which it goes on trying."""
        self._task = asyncio.create_task(self._run())
        try:
            await asyncio.wait_for(self._subscribed.wait(), patience_s)
        except TimeoutError:
            logger.warning("the queue does not answer yet")

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                logger.warning("the queue does not answer: %s", type(error).__name__)
            except Exception:  # nobody waits for this task, and what it tells is needed
                logger.exception("a message could not be taken")
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        queue, heard = await open_queue(self.settings), False
        try:
            async with queue.pubsub() as pubsub:
                try:
                    await pubsub.subscribe(self._channel)
                    while True:
                        message = await _next(pubsub)
                        if message["type"] == "subscribe":
                            self._subscribed.set()
                            self._hear(None)
                            heard = True
                        elif message["type"] == "message":
                            self._hear(message["data"])
                finally:
                    if heard:
                        self._hear(None)  # from now on there may be some that we miss
        finally:
            await queue.aclose()


async def _next(pubsub: PubSub) -> Mapping[str, Any]:
    """What comes next; raises TimeoutError when nothing does, also no answer to a ping: the server hangs, or has gone
    without a word, which a connection that only listens would never notice."""
    message = await pubsub.get_message(timeout=SILENT_S)
    if message is None:
        await pubsub.ping()
        message = await pubsub.get_message(timeout=PONG_S)
    if message is None:
        raise TimeoutError
    return cast(Mapping[str, Any], message)


class Watcher(Protocol):
    """Who wants to know whose profiles change."""

    def forget(self, numbers: Sequence[int] | None) -> None:
        """These users' profiles have changed; None for "perhaps all". Comes at least once a second, often with none."""

    def distrust(self) -> None:
        """Something may have gone unheard, and may go on to, until the next ``forget``."""


class Progress:
    """How far the views have come, as the workers tell; lets a command wait until it can be seen.

    ``watcher`` is told whose profiles have changed, before anybody who waited goes on; ``switched`` is called when
    workers tell of another generation.
    """

    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self.switched: Callable[[], None] = lambda: None
        self._generation = 0
        self._reached = [0] * GROUPS
        self._floors: dict[int, int] = {}
        self._waiting: list[tuple[int, list[int], asyncio.Future[bool]]] = []

    @property
    def generation(self) -> int:
        """Which one the workers told of last; 0 when nothing was heard yet."""
        return self._generation

    def hear(self, message: bytes | None) -> None:
        """Take a worker's message. Of another generation than before, it says nothing about what was heard before: the
        log may have been restored to an older state."""
        if message is None:
            if self.watcher is not None:
                self.watcher.distrust()
            return
        position, groups, generation, changed, lanes = _messages.decode(message)
        if self.begin(generation):
            changed = None
        for lane, at in lanes.items():
            self._floors[lane] = max(self._floors.get(lane, 0), at)
        if self.watcher is not None:
            self.watcher.forget(changed)
        for group in groups:
            self._reached[group] = max(self._reached[group], position)
        still: list[tuple[int, list[int], asyncio.Future[bool]]] = []
        for waiting in self._waiting:
            wanted, needs, future = waiting
            if future.done():
                continue
            if all(self._reached[group] >= wanted for group in needs):
                future.set_result(True)
            else:
                still.append(waiting)
        self._waiting = still

    def begin(self, generation: int) -> bool:
        """Of this generation it is told from now on; whether it is another than before."""
        if generation == self._generation:
            return False
        self._generation, self._reached, self._floors = generation, [0] * GROUPS, {}
        self.switched()
        return True

    def doubt(self) -> None:
        """What was heard of how far groups are may not be so any more: Redis was away, and may have lost its tail. The
        floors stay, which say where lanes stood."""
        self._reached = [0] * GROUPS

    def floor(self, generation: int, lane: int) -> int:
        """Where this lane has stood already, 0 when nobody has said: if it stands lower now, Redis has lost writes."""
        return self._floors.get(lane, 0) if generation == self._generation else 0

    def has_reached(self, position: int) -> bool:
        """Whether all groups are known to have."""
        return min(self._reached) >= position

    async def wait(self, position: int, groups: Iterable[int], timeout_s: float) -> bool:
        """Wait until these groups have reached ``position``; False when they have not within ``timeout_s``."""
        needs = list(groups)
        if all(self._reached[group] >= position for group in needs):
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((position, needs, future))
        timer = loop.call_later(timeout_s, _give_up, future)  # a fifth of what wait_for costs
        try:
            return await future
        finally:
            timer.cancel()


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


def progress_message(
    position: int,
    groups: Iterable[int],
    generation: int = 0,
    changed: Collection[int] | None = (),
    lanes: Mapping[int, int] | None = None,
) -> bytes:
    """Write what ``Progress.hear`` reads; published on ``APPLIED_CHANNEL``. ``changed`` are the users whose profiles
    are new, None for too many to name; ``lanes`` where lanes stand that were just written."""
    numbers = None if changed is None or len(changed) > CHANGED_MAX else list(changed)
    return msgspec.json.encode((position, list(groups), generation, numbers, lanes or {}))
