"""When a build must wait so that live readers need not: the live view comes first."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from commands import log
from commands.postgres import Engine
from projections import generations
from projections.store import Store

# While live readers wait longer than this for their events, a build stands back, looking so often if it may go on.
LAG_MAX_S: Final = 1.0
LOOK_S: Final = 0.2
# A live view that has not moved for so long is paused, broken, or nobody's: waiting would not help it.
STUCK_S: Final = 3.0


class StandingBack:
    """What one build knows of the live view's lag."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine, self._store = engine, store
        self._looked_at = 0.0
        self._position, self._moved_at = -1, time.monotonic()

    async def must_wait(self) -> bool:
        """Whether the build must stand back now; if so, it has waited a moment. Looks at most once in LOOK_S."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return False
        lowest, lag_s = await live_lag(self._engine, self._store)
        self._looked_at = time.monotonic()
        if lowest != self._position:
            self._position, self._moved_at = lowest, self._looked_at
        if lag_s <= LAG_MAX_S or self._looked_at - self._moved_at > STUCK_S:
            return False
        await asyncio.sleep(LOOK_S)
        return True


async def live_lag(engine: Engine, store: Store) -> tuple[int, float]:
    """Give the position of the live view's last lane, and for how long it has lacked an event, in seconds; (0, 0) when
    there is no live view to spare."""
    view = await generations.live_view(store)
    if view is None:
        return 0, 0.0
    found = await generations.checkpoints(store, view, range(view.lanes))
    if None in found.values():
        return 0, 0.0
    lowest = min(checkpoint.position for checkpoint in found.values() if checkpoint)
    since = await log.recorded_after(engine, lowest)
    return lowest, 0.0 if since is None else max(0, (await log.head(engine)).now - since) / 1_000_000
