"""Positions of commands that were answered before the views showed them, for their callers' next reads to wait for."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from contextvars import Context
from itertools import islice
from typing import Final

from commands.errors import FollowsError
from projections.keys import position_of
from projections.store import Store, load_script
from projections.wakeup import Wakeup

logger: Final = logging.getLogger(__name__)

LEAVE: Final = load_script("api", "leave.lua", reads=False)
# A position is kept until any worker that is alive at all has caught up.
KEPT_S: Final = 60
# A command needs no Redis, so it hangs on one that does not answer for only so long at a time.
STORE_WAIT_S: Final = 0.5
# A Redis that took no position is tried again after so long, and then more and more seldom.
AGAIN_S: Final = 0.05
AGAIN_MAX_S: Final = 1.0
# Callers whose position this process remembers, about 1 MB; for others it knows one that is not before theirs.
CALLERS_MAX: Final = 10_000
# So many are left in one round trip.
AT_ONCE: Final = 500


class Positions:
    """Remembers them in this process and leaves them in Redis for the others: what it did not take at once, as soon as
    it does."""

    def __init__(self, store: Store, wakeup: Wakeup) -> None:
        self._store, self._wakeup = store, wakeup
        self._known, self._owed = Latest(), Latest()
        self._paying: asyncio.Task[None] | None = None
        # Of whose position the other processes must be told, and how many such wishes there were and have been granted.
        self._untold: set[str] = set()
        self._wished = self._granted = 0
        self._telling: asyncio.Task[None] | None = None
        self._told = asyncio.Condition()

    def of(self, caller: str) -> int:
        """What this caller's reads must hold, 0 when this process knows of nothing."""
        return self._known.of(caller)

    def remember(self, caller: str, position: int) -> None:
        """This caller was answered, here or in another process, before the views showed this position."""
        self._known.note(caller, position)

    async def leave(self, caller: str, position: int) -> None:
        """Leave it here, in Redis, and where Redis takes no writes with each process; raises nothing."""
        self.remember(caller, position)
        try:
            await self._write(caller, position)
        except Exception as error:
            _log(error)
            self._owed.note(caller, position)
            if self._paying is None:
                self._paying = asyncio.get_running_loop().create_task(self._pay(), context=Context())
            await self._tell_others(caller)

    async def close(self) -> None:
        """What Redis has not taken by now is lost: other processes ask the log for its end (``Returning``)."""
        for task in (self._paying, self._telling):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _pay(self) -> None:
        """Leave what is owed, one first to see whether Redis takes it."""
        at_once, again_s, owed = 1, AGAIN_S, self._owed
        while owed.positions:
            some = dict(islice(owed.positions.items(), at_once))
            try:
                await asyncio.gather(*[self._write(caller, position) for caller, (position, _) in some.items()])
            except Exception as error:
                _log(error)
                for caller in some:  # another's server may be there
                    owed.positions[caller] = owed.positions.pop(caller)
                at_once = 1
                await asyncio.sleep(again_s)
                again_s = min(2 * again_s, AGAIN_MAX_S)
                continue
            at_once, again_s = AT_ONCE, AGAIN_S
            for caller, noted in some.items():
                if owed.positions.get(caller) == noted:
                    del owed.positions[caller]
        self._paying = None

    async def _tell_others(self, caller: str) -> None:
        """Return when each process has been told, or after a moment; then it is still told as soon as may be."""
        self._untold.add(caller)
        self._wished += 1
        wished = self._wished
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell(), context=Context())
        with suppress(TimeoutError):
            async with asyncio.timeout(STORE_WAIT_S), self._told:
                await self._told.wait_for(lambda: self._granted >= wished)

    async def _tell(self) -> None:
        """Tell of all at once that wait for it, until none does; what Redis has taken meanwhile need not be told."""
        again_s = AGAIN_S
        while self._untold:
            wished, some, self._untold = self._wished, self._untold, set()
            if not await self._wakeup.tell_late({caller: self.of(caller) for caller in some}):
                await asyncio.sleep(again_s)
                again_s = min(2 * again_s, AGAIN_MAX_S)
                self._untold |= some & self._owed.positions.keys()
                continue
            again_s = AGAIN_S
            async with self._told:
                self._granted = wished
                self._told.notify_all()

    async def _write(self, caller: str, position: int) -> None:
        async with asyncio.timeout(STORE_WAIT_S):
            await self._store.run(LEAVE, [position_of(caller)], [position, KEPT_S])


class Latest:
    """The latest position of each caller, and until when it counts (``time.monotonic``), oldest note first."""

    def __init__(self) -> None:
        self.positions: dict[str, tuple[int, float]] = {}
        self._others = (0, 0.0)

    def of(self, caller: str) -> int:
        """His, or that of those who had to be given up, if it still counts."""
        position, until = self.positions.get(caller, self._others)
        return position if time.monotonic() < until else 0

    def note(self, caller: str, position: int) -> None:
        """Keep the later one; the caller whose note is the oldest is given up when there are too many."""
        known, _ = self.positions.pop(caller, (0, 0.0))
        self.positions[caller] = max(position, known), time.monotonic() + KEPT_S
        if len(self.positions) > CALLERS_MAX:
            given_up, until = self.positions.pop(next(iter(self.positions)))
            self._others = max(given_up, self._others[0]), max(until, self._others[1])


def _log(error: Exception) -> None:
    """A server that is away is told of elsewhere; all else is a fault, which must not fail what is done already."""
    if not isinstance(error, FollowsError | TimeoutError):
        logger.error("a position cannot be left", exc_info=error)
