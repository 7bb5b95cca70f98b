"""Positions of commands that were answered before the views showed them, for their callers' next reads to wait for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from commands.errors import FollowsError
from projections.keys import position_of
from projections.store import Store, load_script
from projections.wakeup import Wakeup

LEAVE: Final = load_script("api", "leave.lua", reads=False)
# A position is kept until any worker that is alive at all has caught up.
KEPT_S: Final = 60
# A command needs no Redis, so it hangs on one that does not answer for only so long at a time.
STORE_WAIT_S: Final = 0.5
# A Redis that took no position is tried again so often.
AGAIN_S: Final = 0.05
# Callers whose position this process remembers: those of some minutes in which the views were behind. About 1 MB.
CALLERS_MAX: Final = 10_000
# So many are left in one round trip.
AT_ONCE: Final = 500


class Positions:
    """Remembers them in this process and leaves them in Redis for the others: what it did not take at once, as soon as
    it does."""

    def __init__(self, store: Store, wakeup: Wakeup) -> None:
        self._store, self._wakeup = store, wakeup
        self._known: dict[str, int] = {}
        self._owed: dict[str, int] = {}
        self._paying: asyncio.Task[None] | None = None

    def of(self, caller: str) -> int:
        """The latest of this caller's, 0 when this process knows of none."""
        return self._known.get(caller, 0)

    def remember(self, caller: str, position: int) -> None:
        """This caller was answered, here or in another process, before the views showed this position."""
        _note(self._known, caller, position)

    async def leave(self, caller: str, position: int) -> None:
        """Leave it here, in Redis, and where Redis takes no writes with each process; raises nothing."""
        self.remember(caller, position)
        try:
            await self._write(caller, position)
        except (FollowsError, TimeoutError):
            _note(self._owed, caller, position)
            if self._paying is None:
                self._paying = asyncio.create_task(self._pay())
            with suppress(TimeoutError):
                async with asyncio.timeout(STORE_WAIT_S):
                    await self._wakeup.tell_late(caller, position)

    async def close(self) -> None:
        """What Redis has not taken by now is lost: other processes ask the log for its end (``Returning``)."""
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.gather(self._paying, return_exceptions=True)

    async def _pay(self) -> None:
        """Leave what is owed, one first to see whether Redis takes it."""
        at_once = 1
        while self._owed:
            some = dict(list(self._owed.items())[:at_once])
            try:
                await asyncio.gather(*[self._write(caller, position) for caller, position in some.items()])
            except (FollowsError, TimeoutError):
                at_once = 1
                await asyncio.sleep(AGAIN_S)
                continue
            at_once = AT_ONCE
            for caller, position in some.items():
                if self._owed.get(caller) == position:
                    del self._owed[caller]
        self._paying = None

    async def _write(self, caller: str, position: int) -> None:
        async with asyncio.timeout(STORE_WAIT_S):
            await self._store.run(LEAVE, [position_of(caller)], [position, KEPT_S])


def _note(positions: dict[str, int], caller: str, position: int) -> None:
    """Keep the later one, as the newest of them; the oldest caller's is given up when there are too many."""
    positions[caller] = max(position, positions.pop(caller, 0))
    if len(positions) > CALLERS_MAX:
        del positions[next(iter(positions))]
