"""Parking: events that cannot be projected, and later events of their pairs, are set aside.

The table ``parked`` is shared by all workers of a Redis. A projector holds the rows that it read last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import Recorded, Unreadable
from projections.client.client import RedisClient
from projections.views.feeder_record import store_of

logger: Final = logging.getLogger(__name__)

# An event that cannot be projected, and why.
Rejected = tuple[Recorded, str]


class ParkedPairs:
    """Parked pairs, each with the position of its first parked event, and the events that an operator skipped."""

    def __init__(self, engine: Engine, redis: RedisClient, store: str | None = None) -> None:
        """``store`` is the word of this Redis; it is read with the table when it is not given."""
        self._engine, self._redis = engine, redis
        self._known_store, self._store = store, store or ""
        self._pairs: dict[tuple[int, int], int] = {}
        self._skipped: frozenset[int] = frozenset()
        # The position up to which the log was read, with its word.
        self.read_to: tuple[int | None, int | None] = (None, None)

    @property
    def is_empty(self) -> bool:
        """Return whether no pair is parked and no event was skipped."""
        return not (self._pairs or self._skipped)

    async def refresh(self) -> None:
        """Read the table again."""
        if self._known_store is None:
            self._store = await store_of(self._redis)
        rows = await parked.read_parked(self._engine, skipped=True, store=self._store)
        self._skipped = frozenset(row.position for row in rows if row.skipped)
        pairs = [((row.subject, row.object), row.position) for row in rows if not row.skipped]
        self._pairs = dict(reversed(pairs))  # the rows are oldest first, and the oldest must win

    async def split(self, events: Sequence[Recorded]) -> Sequence[Recorded]:
        """Park unreadable events and events behind parked ones; return the others, which can be projected."""
        if not (self._pairs or self._skipped or any(type(recorded.event) is Unreadable for recorded in events)):
            return events
        present = [recorded for recorded in events if recorded.position not in self._skipped]
        await self.park(
            [(recorded, recorded.event.reason) for recorded in present if isinstance(recorded.event, Unreadable)]
        )
        return await self.projectable(present)

    async def park(self, rejected: Iterable[Rejected]) -> None:
        """Park these events; later events of their pairs wait from now on."""
        rows = [(recorded.position, recorded.subject, recorded.object, reason) for recorded, reason in rejected]
        if not rows:
            return
        logger.error(
            "parked %d events, the first at position %d (%s); see `follows parked`", len(rows), rows[0][0], rows[0][3]
        )
        await parked.park(self._engine, rows, self.read_to, self._store)
        for position, subject, object_, _ in rows:
            self._pairs[subject, object_] = min(position, self._pairs.get((subject, object_), position))

    async def projectable(self, events: Sequence[Recorded]) -> Sequence[Recorded]:
        """Park events behind a parked event of their pair; return the others.

        One statement checks in the table that the pair is still parked. Otherwise an event could be parked behind a
        pair that has just been retried, and would stay parked.
        """
        waiting = [
            recorded
            for recorded in events
            if recorded.position >= self._pairs.get((recorded.subject, recorded.object), recorded.position + 1)
        ]
        if not waiting:
            return events
        rows = [(recorded.position, recorded.subject, recorded.object) for recorded in waiting]
        kept = await parked.park_behind(self._engine, rows, self.read_to, self._store)
        for recorded in waiting:
            if recorded.position not in kept:
                self._pairs.pop((recorded.subject, recorded.object), None)
        return [recorded for recorded in events if recorded.position not in kept]
