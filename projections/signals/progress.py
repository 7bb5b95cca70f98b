"""The positions that the views have reached: the workers' messages, and what a web process knows from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec

from commands.db.postgres import Engine
from commands.log.fold import changed_users
from projections.keys import LEASE_GROUPS, Place, lease_group_of

# A message that would name more changed profiles than these names none: dropping all cached ones is less work then.
CHANGED_MAX: Final = 1_000
# A switch looks through so many events for changed profiles, some milliseconds.
EVENTS_MAX: Final = 100_000
# Reported positions that looks have not found yet. A process whose looks fail keeps no more of them.
REPORTED_MAX: Final = 10_000
# The message of a worker that projects nothing now, but can read the log.
READS_THE_LOG: Final = b"0"
_NOWHERE: Final[Place] = (0, None)


class _Message(msgspec.Struct, array_like=True, gc=False):
    """How far a worker is: ``position``, the lease ``groups`` that have reached it, the generation, the users whose
    profiles changed (None: perhaps all), partition -> checkpoint of all that the worker projects, the word of the
    Redis that it projects into, the generation that this one replaces, as the pointer has it, the ``word`` of the log's
    history at ``position``, and the ``run`` of the server that the worker reads the log from.

    A newer version may append fields, which are ignored here; a field that is missing has its default.
    """

    position: int
    groups: list[int]
    generation: int
    changed: list[int] | None = None
    partitions: dict[int, int] = {}
    store: str = ""
    replaces: int = 0
    word: int | None = None
    run: str = ""


_messages: Final = msgspec.json.Decoder(_Message)


# Seconds of a clock that is never set, and that goes on while the machine is suspended.
seconds_since_boot: Final = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Watcher(Protocol):
    """A cache that must know which profiles change."""

    def invalidate(self, numbers: Sequence[int] | None) -> None:
        """Drop these users' profiles, or all for None. Called at least once a second, often with an empty list."""

    def invalidate_all(self) -> None:
        """Drop everything and keep nothing until the next ``invalidate``: messages may be missed meanwhile."""


class Progress:
    """How far the views have come according to the workers; lets a command wait until it is visible."""

    def __init__(self, clock: Callable[[], float] = seconds_since_boot) -> None:
        self._clock = clock
        self._watchers: list[Watcher] = []
        self._on_switch: list[Callable[[], None]] = []
        self._generation = 0
        # The word of the Redis that this process reads, "" until it is known.
        self._store = ""
        # The run of the server that this process finds its log on, as ``read_server_run`` has it; "" until it is known.
        self.server_run = ""
        # When the last message came, of a worker that had just read the log.
        self.heard_at = clock()
        # The highest position that a worker has reported.
        self.highest = 0
        # By lease group: the highest position reported, with its word.
        self._reached: list[Place] = [_NOWHERE] * LEASE_GROUPS
        self._high_waters: dict[int, int] = {}
        # Lease group -> place and checkpoints of its latest message.
        self._reports: dict[int, tuple[Place, Mapping[int, int]]] = {}
        # Reported position -> its word, of those after the latest look; None from a worker that reports no words.
        self._words: dict[int, int | None] = {}
        self._waiting: list[tuple[int, list[int], asyncio.Future[bool]]] = []

    @property
    def generation(self) -> int:
        """Return the generation of the last message, or the one that was read before it; 0 before either."""
        return self._generation

    def subscribe(self, watcher: Watcher, on_switch: Callable[[], None]) -> None:
        """Report changed profiles to ``watcher``, before any wait ends, and call ``on_switch`` when the workers publish
        the progress of a generation that may be of another history of the log."""
        self._watchers.append(watcher)
        self._on_switch.append(on_switch)

    def on_message(self, message: bytes | None) -> None:
        """Take in a worker's message; None means that some may have been missed.

        The first message of another generation resets everything, but for profiles, numbers and logins when it replaces
        the generation before: otherwise the log may have been restored to an older state.
        """
        if message is None:
            for watcher in self._watchers:
                watcher.invalidate_all()
            return
        self.heard_at = self._clock()
        if message == READS_THE_LOG:
            return
        told = _messages.decode(message)
        if told.store != self._store and told.store and self._store:  # another Redis is fed from this log, too
            return
        if told.run != self.server_run and told.run and self.server_run:  # the next look may find that server
            for watcher in self._watchers:
                watcher.invalidate(told.changed if told.generation == self._generation else None)
            return
        position, groups, partitions = told.position, told.groups, told.partitions
        changed = told.changed if self.reset(told.generation, told.replaces) else None
        high_waters = self._high_waters
        for partition, at in partitions.items():
            if at > high_waters.get(partition, 0):
                high_waters[partition] = at
        self.highest = max(self.highest, position)
        if len(self._words) >= REPORTED_MAX:
            self._words.clear()
        self._words[position] = told.word
        self._reports.update(dict.fromkeys(groups, ((position, told.word), partitions)))
        for watcher in self._watchers:
            watcher.invalidate(changed)
        for group in groups:
            if position > self._reached[group][0]:
                self._reached[group] = position, told.word
        self._end_waits()

    def _end_waits(self) -> None:
        """End the waits for positions that the views have reached."""
        still: list[tuple[int, list[int], asyncio.Future[bool]]] = []
        for waiting in self._waiting:
            wanted, needs, future = waiting
            if future.done():
                continue
            if self.has_reached(wanted, needs):
                future.set_result(True)
            else:
                still.append(waiting)
        self._waiting = still

    def use(self, store: str) -> None:
        """Take only messages about the Redis of this word from now on; what came before may be about another one."""
        if store != self._store:
            self._store = store
            self.clear()

    def use_server(self, run: str) -> None:
        """Take only messages about the log on this run of a server from now on."""
        if run != self.server_run:
            self.server_run, self._words = run, {}

    def begin(self, generation: int) -> None:
        """Take ``generation`` for that of the first message, unless there was one: nothing is dropped."""
        self._generation = self._generation or generation

    def reset(self, generation: int, replaces: int = 0) -> bool:
        """Start over with ``generation``, unless it is known already.

        Return whether what was read from the view before is right in this one, which ``replaces`` that generation.
        """
        before, self._generation = self._generation, generation
        if generation == before:
            return True
        self.clear()
        if before and before == replaces:
            return True
        for call in self._on_switch:
            call()
        return False

    def clear(self) -> None:
        """Drop all that was reported: it is of another view, or of another history of the log."""
        self.highest, self._reached, self._high_waters, self._reports = 0, [_NOWHERE] * LEASE_GROUPS, {}, {}
        self._words = {}

    def forget(self, up_to: int) -> None:
        """Drop the words of reported positions up to this one: the log's own words of them are known."""
        self._words = {position: word for position, word in self._words.items() if position > up_to}

    def has_reported(self, position: int, word: int | None) -> bool:
        """Return whether a worker has reported this very position, with this word.

        True as well where the worker or the checkpoint is of a version without words.
        """
        return position in self._words and (word is None or self._words[position] in (None, word))

    def highest_strange(self, word_at: Callable[[int], int | None], lost: int) -> int:
        """Return the highest position that was reported with another word than the log's, 0 if there is none.

        ``word_at`` returns the log's word, None if it is not known: then positions up to ``lost`` are of a history that
        was lost. A worker of a version that reports no words is believed.
        """
        reported = {*self._reached, *(place for place, _ in self._reports.values())}
        words = ((position, word, word_at(position)) for position, word in reported if word is not None)
        return max((at for at, word, found in words if (at <= lost if found is None else found != word)), default=0)

    def high_waters(self, generation: int) -> Mapping[int, int]:
        """Return partition -> the highest position published for it. A partition below it has lost writes."""
        return self._high_waters if generation == self._generation else {}

    def has_reached(self, position: int, groups: Iterable[int]) -> bool:
        """Return whether these groups are known to have reached ``position``."""
        return all(self._reached[group][0] >= position for group in groups)

    def is_complete(self, generation: int, partition: int, checkpoint: int, position: int) -> bool:
        """Return whether a partition at ``checkpoint`` lacks nothing up to ``position``, by its worker's latest report.

        The checkpoint of an idle partition is written once a second, although the worker has read on.
        """
        (read_to, _), checkpoints = self._reports.get(lease_group_of(partition), (_NOWHERE, {}))
        reported = checkpoints.get(partition)
        is_same = generation == self._generation and reported is not None and checkpoint >= reported
        return is_same and position <= read_to

    async def wait(self, position: int, groups: Iterable[int], timeout_s: float) -> bool:
        """Wait until these groups have reached ``position``; return False when they have not within ``timeout_s``."""
        needs = list(groups)
        if self.has_reached(position, needs):
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


async def changed_since(engine: Engine, after: int, up_to: int) -> list[int] | None:
    """Return whose profiles changed after a position, up to another one, for ``progress_message``; None: too many."""
    return None if up_to - after > EVENTS_MAX else await changed_users(engine, after, up_to, CHANGED_MAX)


def progress_message(
    position: int,
    groups: Iterable[int],
    generation: int = 0,
    changed: Collection[int] | None = (),
    partitions: Mapping[int, int] | None = None,
    store: str = "",
    replaces: int = 0,
    word: int | None = None,
    run: str = "",
) -> bytes:
    """Return a ``_Message`` for ``Progress.on_message``, to be published on the log's ``applied_channel``.

    ``changed`` are the users with new profiles, None for too many to name; ``partitions`` the checkpoints of all
    partitions that the worker projects, in the Redis of the word ``store``; ``replaces`` is as in the pointer, ``word``
    that of the position, and ``run`` that of the server that has the log.
    """
    numbers = None if changed is None or len(changed) > CHANGED_MAX else list(changed)
    told = _Message(position, list(groups), generation, numbers, dict(partitions or {}), store, replaces, word, run)
    return msgspec.json.encode(told)
