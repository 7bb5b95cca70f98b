"""What a caller's reads must hold once the views' server has been away or silent.

While it was, commands may have been answered whose positions could be left for nobody yet (``api/positions.py``). Those
committed by the time it came back are covered by the log's end as it is then. Other processes may not have seen it back
yet and go on so for a moment, so for that moment each read asks for the log's end anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Final

from api.positions import KEPT_S
from commands import log
from commands.errors import StoreUnavailable, Unavailable
from commands.postgres import Engine
from projections.keys import GROUPS
from projections.wakeup import Progress

logger: Final = logging.getLogger(__name__)

# A log that is away, too, is asked again so often; until it answers, nobody can be told what he may have written.
AGAIN_S: Final = 0.2
# A read waits this long for the log's answer, and so long for the views to come to it.
WAIT_S: Final = 0.5
# After so long the other processes have seen the server, too, and have left in it what they could not.
MOMENT_S: Final = 1.0


class Returning:
    """The position that every caller's reads must hold, until the views hold it, or as long as positions are kept."""

    def __init__(self, engine: Engine, progress: Progress, tell: Callable[[int], None] = lambda _: None) -> None:
        """``tell`` wakes the workers, who may not know yet that the log has grown so far."""
        self._engine, self._progress, self._tell = engine, progress, tell
        self._asking: asyncio.Task[None] | None = None
        self._answered = asyncio.Condition()
        # How often somebody has wanted the log's end, and how many of these an answer covers that was asked for later.
        self._wanted = self._covered = 0
        # The same of those that have been tried in vain, and which of them was of the latest return.
        self._tried = self._noted = 0
        self._anew_until = self._until = float("-inf")
        self._position = 0
        self._closed = False

    @property
    def over(self) -> bool:
        """Whether there is no such position."""
        now = time.monotonic()
        return now >= self._anew_until and (
            (self._covered == self._wanted and not self._position) or now >= self._until
        )

    @property
    def latest(self) -> int:
        """Which return was the latest; another number for each."""
        return self._noted

    def returned(self) -> None:
        """The server is back just now, and may have lost its last writes: what was heard of the views is forgotten."""
        self._progress.doubt()
        self.note()

    def note(self) -> None:
        """Somebody could not ask the server, so that others may not have been able to leave positions in it."""
        now = time.monotonic()
        self._anew_until, self._until = now + MOMENT_S, now + KEPT_S
        self._want()
        self._noted = self._wanted

    async def position(self) -> int:
        """Give it, 0 when the views were found to hold it before; raises StoreUnavailable while nobody knows it."""
        if time.monotonic() < self._anew_until:
            self._want()
        await self._answer()
        position = self._position
        if self._progress.has_reached(position):
            self._position = 0  # who reads from now on reads what holds it
        return position

    async def unheld(self, position: int) -> int:
        """Wait a moment until the views hold ``position``; give what is still to be waited for, 0 when they do."""
        if not await self._progress.wait(position, range(GROUPS), WAIT_S):
            return position
        if self._position == position:
            self._position = 0
        return 0

    async def close(self) -> None:
        """Ask no more, whatever is noted from now on; a question that is under way gets a moment for its answer."""
        self._closed = True
        if (asking := self._asking) is not None:
            await asyncio.wait([asking], timeout=WAIT_S)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def _want(self) -> None:
        self._wanted += 1
        if self._asking is None and not self._closed:
            self._asking = asyncio.get_running_loop().create_task(self._ask(), context=Context())

    async def _answer(self) -> None:
        """Return when the log's end is known as it was after this call, or later; or as it was after the return, when
        the log is away now: then nobody commits anything. Raises StoreUnavailable when neither is known: a log that
        only does not answer us may go on for others."""
        wanted = self._wanted
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S), self._answered:
                await self._answered.wait_for(lambda: max(self._covered, self._tried) >= wanted)
        if self._covered < self._noted or max(self._covered, self._tried) < wanted:
            raise StoreUnavailable

    async def _ask(self) -> None:
        while self._covered < self._wanted and not self._closed:
            wanted = self._wanted
            try:
                self._position = (await log.head(self._engine)).position
                if not self._progress.has_reached(self._position):
                    self._tell(self._position)
            except Exception as error:
                if not isinstance(error, Unavailable):
                    logger.exception("the log's end is not known")
                async with self._answered:
                    self._tried = wanted
                    self._answered.notify_all()
                await asyncio.sleep(AGAIN_S)
                continue
            async with self._answered:
                self._covered = wanted
                self._answered.notify_all()
        self._asking = None
