"""Which events the views must not take now: those that cannot be projected, and what waits behind them on their pairs.

The table ``parked`` is the truth, shared by all workers; here is what it lately said, as one projector knows it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from commands import parking
from commands.events import Recorded, Unreadable
from commands.postgres import Engine

logger: Final = logging.getLogger(__name__)

# An event that cannot be projected, and why.
Culprit = tuple[Recorded, str]


class Aside:
    """Parked pairs with the position of the first event that is parked there, and the events that somebody skipped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pairs: dict[tuple[int, int], int] = {}
        self._skipped: frozenset[int] = frozenset()

    async def refresh(self) -> None:
        """Read the table anew."""
        rows = await parking.parked(self._engine, skipped=True)
        self._skipped = frozenset(row.position for row in rows if row.skipped)
        pairs = [((row.subject, row.object), row.position) for row in rows if not row.skipped]
        self._pairs = dict(reversed(pairs))  # they come oldest first, and the oldest shall win

    async def sort_out(self, events: Sequence[Recorded]) -> Sequence[Recorded]:
        """Park what cannot be read and what waits behind something; give the others, which may be projected."""
        if not (self._pairs or self._skipped or any(type(recorded.event) is Unreadable for recorded in events)):
            return events
        present = [recorded for recorded in events if recorded.position not in self._skipped]
        await self.park(
            [(recorded, recorded.event.reason) for recorded in present if isinstance(recorded.event, Unreadable)]
        )
        return await self.in_the_clear(present)

    async def park(self, culprits: Iterable[Culprit]) -> None:
        """Park these events; their pairs wait from now on."""
        rows = [(recorded.position, recorded.subject, recorded.object, reason) for recorded, reason in culprits]
        if not rows:
            return
        logger.error("parked %d events, the first at position %d: %s", len(rows), rows[0][0], rows[0][3])
        await parking.park(self._engine, rows)
        for position, subject, object_, _ in rows:
            self._pairs[subject, object_] = min(position, self._pairs.get((subject, object_), position))

    async def in_the_clear(self, events: Sequence[Recorded]) -> Sequence[Recorded]:
        """Park what waits behind a parked event of its pair; give the others.

        The table decides, in one statement: a pair that has been mended meanwhile has nothing to wait for, and what was
        parked behind nothing would stay there.
        """
        waiting = [
            recorded
            for recorded in events
            if recorded.position >= self._pairs.get((recorded.subject, recorded.object), recorded.position + 1)
        ]
        if not waiting:
            return events
        kept = await parking.park_behind(
            self._engine, [(recorded.position, recorded.subject, recorded.object) for recorded in waiting]
        )
        for recorded in waiting:
            if recorded.position not in kept:
                self._pairs.pop((recorded.subject, recorded.object), None)
        return [recorded for recorded in events if recorded.position not in kept]
