"""Which view readers see, as a worker knows it: also for a while in which the pointer's server does not answer."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from commands.errors import StoreUnavailable
from projections.generations import live_view
from projections.keys import View
from projections.store import Store

# Of a cluster's servers one may be away, and be it the one that has the pointer: the lanes on the others go on. So long
# is waited for it, and so long it is then left alone.
PATIENCE_S: Final = 0.2
AGAIN_S: Final = 1.0


class Sighting:
    """The pointer as it was last read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: View | None = None
        self._away_until = 0.0

    async def last(self) -> View | None:
        """The view that readers see; if that cannot be asked now, the one they saw. Raises StoreUnavailable when none
        was seen yet.

        To project into a view that readers have left does no harm: its lanes have been retired and take nothing.
        """
        if not await self._look() and self._last is None:
            raise StoreUnavailable
        return self._last

    async def sees(self, view: View) -> bool | None:
        """Whether readers see ``view``; None when that is not known now."""
        return self._last == view if await self._look() else None

    async def _look(self) -> bool:
        if time.monotonic() < self._away_until:
            return False
        try:
            async with asyncio.timeout(PATIENCE_S if self._last else None):
                self._last = await live_view(self._store)
        except (StoreUnavailable, TimeoutError):
            self._away_until = time.monotonic() + AGAIN_S
            return False
        return True
