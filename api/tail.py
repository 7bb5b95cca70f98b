"""The log's end as this process knows it: what was committed, and which of it the views may not show yet.

See docs/decisions/0025-the-log-says-what-is-not-shown.md for the rules and for the interleavings behind them.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from commands.errors import LogUnavailable, ViewUnavailable
from commands.log.looks import BatchWords, Look, Looks, Mark
from projections.keys import read_word
from projections.outages import Outage
from projections.signals.progress import Progress, seconds_since_boot
from queries.reader import NO_USER, AnswerPart

logger: Final = logging.getLogger(__name__)

# A power of two. At 8 bytes each, 8 MB.
SLOTS: Final = 2**20
LOOK_INTERVAL_S: Final = 0.25
# How long before a request its latest look may have begun. All processes have seen a command of an earlier commit.
LOOK_AGE_MAX_S: Final = 1.0
# How long a request waits for a look, or for older events of the log.
TAIL_WAIT_S: Final = 1.0
# How often it asks whether what it waits for has come: a look, or a worker's report.
POLL_S: Final = 0.01
# The log is away for all when this number of looks in a row have failed, and no worker has sent a message this long.
FAILED_LOOKS: Final = 4
SILENT_S: Final = 2.0
# Events that are read at once: 10 ms of this process.
TAIL_SLICE: Final = 5_000
# Checkpoints whose words were found in the log.
VERIFIED_MAX: Final = 10_000


class Tail:
    """What callers have written after ``_since``, and the looks that keep it up to date."""

    def __init__(
        self,
        looks: Looks,
        progress: Progress,
        on_other_history: Callable[[], None],
        clock: Callable[[], float] = seconds_since_boot,
        on_look: Callable[[float, Look], None] = lambda *_: None,
    ) -> None:
        """``on_other_history`` drops what is remembered; ``on_look`` gets the beginning and the result of each look."""
        self._looks, self._progress, self._on_look = looks, progress, on_look
        # The time, in seconds of the clock that all moments here are of.
        self.moment = self._clock = clock
        self._on_other_history = on_other_history
        # How often the log turned out to be of another history.
        self.history = 0
        # The head of the latest look. Before the first one nothing can be judged.
        self.known = -1
        self._word: int | None = None
        self._newest = array("q", [0]) * SLOTS
        # All events in (_since, known] are in _newest.
        self._since = 2**63
        # What the log has lost: up to here, workers may have reported positions that mean nothing.
        self._lost = 0
        self._words, self._verified = BatchWords(), set[bytes]()
        self._began = self._connected_at = float("-inf")
        self._failed = 0
        self._outage = Outage(logger, "the log's end is read again")
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look for the first time, then go on in the background. Raises nothing."""
        await self.look()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._looks.close()

    @property
    def highest(self) -> int:
        """The highest position that this process knows of: a later commit has a higher one, in the same history."""
        return max(self.known, self._progress.highest)

    def on_connection(self) -> None:
        """Note that Redis may have lost writes: reads wait for a look that begins after this."""
        self._connected_at = self._clock()

    def enter(self, marks: Iterable[Mark]) -> None:
        """Enter what callers have written."""
        newest = self._newest
        for caller, number, position in marks:
            slot = hash((caller, number)) & (SLOTS - 1)
            if newest[slot] < position:
                newest[slot] = position

    def newest(self, caller: str, number: int) -> int:
        """Return the position of the caller's latest write that touched this user, or a higher one; 0 for none."""
        return self._newest[hash((caller, number)) & (SLOTS - 1)]

    def below(self, caller: str, asked: int, parts: Iterable[AnswerPart]) -> list[tuple[int, AnswerPart]]:
        """Return as ``MinPosition.below``: what lacks a write of the caller, or what is below ``asked``."""
        newest, found = self._newest, list[tuple[int, AnswerPart]]()
        for part in parts:
            _, number, position, _, _ = part
            # NO_USER shares its slot with users: their writes would be waited for in data that cannot show them.
            needed = 0 if number == NO_USER else newest[hash((caller, number)) & (SLOTS - 1)]
            if position < needed or position < asked:
                found.append((max(needed, asked), part))
        return found

    # ---- what a request waits for

    def is_current(self, came: float) -> bool:
        """Return whether all that was committed a second before ``came`` is known, or that nothing was."""
        return self._began >= max(came - LOOK_AGE_MAX_S, self._connected_at) or self._is_log_away()

    def has_looked_since(self, moment: float) -> bool:
        """Return whether a look that began at ``moment`` or later is finished."""
        return self._began >= moment

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float = TAIL_WAIT_S) -> bool:
        """Ask ``condition`` now and every POLL_S, for at most ``timeout_s``; return its last answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 - looks, reports and time itself can each meet it
                    await asyncio.sleep(POLL_S)
        return condition()

    def confirms(self, position: int, word: int | None, committed_at: float) -> bool:
        """Return whether a command is in the log, and every process has looked since it was committed.

        ``word`` is None for a command that found its event there.
        """
        if self._began < committed_at + LOOK_AGE_MAX_S or position > self.known:
            return False
        return word is None or self._words.at(position) == word

    def unjudged(self, parts: Iterable[AnswerPart]) -> AnswerPart | None:
        """Return as ``MinPosition.unjudged``: a part that may be of another history, or lack writes not known here."""
        since, known, verified = self._since, self.known, self._verified
        for part in parts:
            _, _, position, word, _ = part
            is_easy = since <= position <= known and word in verified
            if not is_easy and not self._is_judged(position, word):
                return part
        return None

    def _is_judged(self, position: int, word: bytes | None) -> bool:
        if position < self._since:
            return False
        if position > self.known:
            return self._is_known(position, word)
        if word is None or word in self._verified:
            return True
        written = read_word(word, position)
        found = self._words.at(position)
        if written is None:
            return True  # a worker of the version before has moved the checkpoint
        if found is not None:
            self._verify(word, written, found)
        return found is not None

    async def judge(self, position: int, word: bytes | None) -> None:
        """Do what ``unjudged`` lacks. Raises ViewUnavailable for another history, and LogUnavailable."""
        if position > self.known:
            now = self._clock()
            await self.wait_until(
                lambda: self._is_known(position, word) or self.has_looked_since(now) or self._is_log_away()
            )
            if not self._is_known(position, word):  # the view is ahead of the log, or no look has come
                raise ViewUnavailable if self.has_looked_since(now) else LogUnavailable
        if position < self._since:
            await self._read_back(position)
        written = read_word(word, position)
        if word is not None and written is not None and not self._is_judged(position, word):
            found = await self._looks.words_at([position])
            self._verify(word, written, found.get(position, ~written))

    # ---- looks

    def _is_known(self, position: int, word: bytes | None) -> bool:
        """Return whether a look has found a position, or a worker has reported one that is not lost, with this word."""
        is_reported = position > self._lost and self._progress.has_reported(position, read_word(word, position))
        return position <= self.known or is_reported

    def _is_log_away(self) -> bool:
        """Return whether nothing is being committed, as far as can be told: no process can read the log any more.

        A process whose looks failed before the workers fell silent was cut off alone, and has missed commits.
        """
        heard_at = self._progress.heard_at
        return (
            self._failed >= FAILED_LOOKS
            and self._clock() - heard_at >= SILENT_S
            and heard_at - self._began <= LOOK_AGE_MAX_S
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Look once; a failure is counted and logged."""
        began = self._clock()
        try:
            found = await self._read_on()
        except Exception as error:
            self._failed += 1
            if self._failed >= FAILED_LOOKS or not isinstance(error, LogUnavailable):
                self._outage.begin(error, "the log's end cannot be read: reads with a token may be 503: %s", error)
        else:
            self._began, self._failed = began, 0
            self._on_look(began, found)
            self._outage.end()

    async def _read_on(self) -> Look:
        reported = self._progress.highest
        found = await self._looks.look(max(self.known, 0))
        self._progress.use_server(found.run)
        if self.known < 0:
            self._begin(found)
        elif found.position < max(self.known, reported if reported > self._lost else 0) or (
            None not in (self._word, found.word_asked) and found.word_asked != self._word
        ):
            self._drop(found, reported)
        else:
            batches = list[tuple[int, int]]()
            for after in range(self.known, found.position, TAIL_SLICE):
                written = await self._looks.written(after, min(after + TAIL_SLICE, found.position))
                self.enter(written.marks)
                batches += written.batches
            if batches and found.word not in (None, batches[-1][1]):
                raise LogUnavailable  # the address has led to another server in between
            self._words.extend(batches)
            self.known, self._word = found.position, found.word
            if (strange := self._progress.highest_strange(self._words.at, self._lost)) > self._lost:
                self._drop(found, strange)
            elif strange:
                self._progress.clear()  # a worker has not noticed yet
            self._progress.forget(self.known)
        return found

    def _begin(self, found: Look) -> None:
        self._progress.clear()
        self.known = self._since = found.position
        self._word = found.word
        self._words = BatchWords() if found.word is None else BatchWords((found.position, found.word))
        self._verified.clear()

    def _drop(self, found: Look, reported: int) -> None:
        """Begin again with another history: what was reported or remembered is not valid in it."""
        logger.error(
            "the log has lost what it had after position %d or earlier: this process knew it up to %d",
            found.position,
            max(self.known, reported),
        )
        self.history += 1
        self._lost = max(self._lost, self.known, reported)
        self._newest = array("q", [0]) * SLOTS
        self._begin(found)
        self._on_other_history()

    def _verify(self, raw: bytes, written: int, found: int | None) -> None:
        if found not in (None, written):
            raise ViewUnavailable
        if len(self._verified) >= VERIFIED_MAX:
            self._verified.clear()
        self._verified.add(raw)

    async def _read_back(self, position: int) -> None:
        """Read the events in (position, _since], newest first. Raises LogUnavailable when that takes longer than a
        request waits; what was read by then is kept."""
        end = self._clock() + TAIL_WAIT_S
        async with self._reading:
            while position < self._since:
                if self.known < 0 or self._clock() >= end:
                    raise LogUnavailable
                history, up_to = self.history, self._since
                after = max(up_to - TAIL_SLICE, 0)
                written = await self._looks.written(after, up_to, older=True)
                if history == self.history:
                    self.enter(written.marks)
                    self._since = after
