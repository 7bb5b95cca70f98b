"""Parked events: those that could not be projected, and the later events of the same pairs, which wait behind them.

Each Redis has its own, by its word ``store``: what is repaired in one is not in another. An event that an operator
skipped is left out of all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, connected, execute, fetch
from commands.errors import PairParked
from commands.events import UNREADABLE

logger: Final = logging.getLogger(__name__)

# Positions that a process has logged; beyond it some are logged again.
LOGGED_MAX: Final = 10_000

# The events were read from a log that may have lost them since. Then nothing is parked: their positions may be those of
# other events now, and later events of their pairs would wait for nothing.
_IS_SAME_HISTORY: Final = """(CAST(:read_to AS bigint) IS NULL
    OR word_at(CAST(:read_to AS bigint)) IS NOT DISTINCT FROM CAST(:word AS bigint))"""
_PARK: Final = text(
    f"""INSERT INTO parked (store, position, subject, object, reason)
    SELECT :store, * FROM unnest(CAST(:positions AS bigint[]), CAST(:subjects AS bigint[]),
        CAST(:objects AS bigint[]), CAST(:reasons AS text[]))
    WHERE {_IS_SAME_HISTORY}
    ON CONFLICT DO NOTHING"""
)
# The parked row in front is locked, so that this statement and an ``unpark`` of the pair run one after the other. If
# the unpark is first, the row is gone and nothing is parked. If it is second, it finds what was parked here.
_PARK_BEHIND: Final = text(
    f"""INSERT INTO parked (store, position, subject, object, reason)
    SELECT :store, w.position, w.subject, w.object, 'waits behind a parked event of its pair'
    FROM unnest(CAST(:positions AS bigint[]), CAST(:subjects AS bigint[]), CAST(:objects AS bigint[]))
        AS w (position, subject, object)
    CROSS JOIN LATERAL (
        SELECT FROM parked p WHERE p.store = :store AND p.subject = w.subject AND p.object = w.object
        AND p.position <= w.position AND p.skipped_at IS NULL ORDER BY p.position LIMIT 1 FOR SHARE) front
    WHERE {_IS_SAME_HISTORY}
    ON CONFLICT DO NOTHING"""
)
_ARE_PARKED: Final = text(
    """SELECT position FROM parked
    WHERE store = :store AND position = ANY(CAST(:positions AS bigint[])) AND skipped_at IS NULL"""
)
_LIST: Final = text(
    """SELECT DISTINCT ON (position) position, subject, object, reason, parked_at, skipped_by, skipped_why
    FROM parked WHERE CASE WHEN position = ANY (ARRAY(SELECT position FROM parked WHERE skipped_at IS NOT NULL))
        THEN skipped_at IS NOT NULL AND :skipped ELSE store = :store OR CAST(:store AS text) IS NULL END
    ORDER BY position, skipped_at"""
)
_UNPARK: Final = text(
    """DELETE FROM parked WHERE store = :store AND subject = :subject AND object = :object AND position <= :up_to
    AND skipped_at IS NULL"""
)
_MARK_SKIPPED: Final = text("SELECT skip_parked(:position, :who, :why)")
_LIST_OF_PAIR: Final = text(
    """SELECT position, subject, object, reason, parked_at, skipped_by, skipped_why FROM parked
    WHERE store = :store AND subject = :subject AND object = :object ORDER BY position"""
)


class ParkedEvent(msgspec.Struct, frozen=True):
    """An event that the views do not hold, and why not."""

    position: int
    subject: int
    object: int
    reason: str
    parked_at: datetime
    skipped_by: str | None = None
    skipped_why: str | None = None

    @property
    def skipped(self) -> bool:
        """True when an operator decided to leave it out of the views for good."""
        return self.skipped_by is not None

    @property
    def unreadable(self) -> bool:
        """True when the version that parked it could not read it."""
        return UNREADABLE in self.reason


class ParkedWarnings:
    """Logs one line for each event because of which commands on its pair are refused."""

    def __init__(self) -> None:
        self._logged: set[int] = set()

    def note(self, refusal: PairParked, pair: tuple[int, int]) -> None:
        """Log a refusal, unless its position was logged before."""
        if refusal.position in self._logged:
            return
        if len(self._logged) >= LOGGED_MAX:
            self._logged.clear()
        self._logged.add(refusal.position)
        logger.warning(
            "commands on #%d following #%d get 503: the event at position %d is parked, or of a kind that this version "
            "does not know; see `follows parked`, or upgrade this process",
            *pair,
            refusal.position,
        )


async def park(
    engine: Engine,
    rows: Sequence[tuple[int, int, int, str]],
    read_to: tuple[int | None, int | None] = (None, None),
    store: str = "",
) -> None:
    """Park events given as (position, subject, object, reason). Parking one twice changes nothing.

    ``read_to`` is a position at or after them, with its word: nothing is parked if the log has another word there.
    """
    positions, subjects, objects, reasons = (list(column) for column in zip(*rows, strict=True))
    columns = {"positions": positions, "subjects": subjects, "objects": objects, "reasons": reasons}
    await execute(engine, _PARK, {**columns, "read_to": read_to[0], "word": read_to[1], "store": store})


async def park_behind(
    engine: Engine,
    rows: Sequence[tuple[int, int, int]],
    read_to: tuple[int | None, int | None] = (None, None),
    store: str = "",
) -> set[int]:
    """Park the events (position, subject, object) whose pair has an earlier parked event. ``read_to`` as for ``park``.

    Return the positions of those that are parked now, by this call or before it.
    """
    positions, subjects, objects = (list(column) for column in zip(*rows, strict=True))
    async with connected(engine) as connection:
        columns = {"positions": positions, "subjects": subjects, "objects": objects}
        parameters = {**columns, "read_to": read_to[0], "word": read_to[1], "store": store}
        await connection.execute(_PARK_BEHIND, parameters)
        return set((await connection.execute(_ARE_PARKED, {"positions": positions, "store": store})).scalars())


async def read_parked(engine: Engine, *, skipped: bool = False, store: str | None = None) -> list[ParkedEvent]:
    """Return the parked events of one Redis or of all, oldest first; with ``skipped`` also all that were skipped."""
    return [ParkedEvent(*row) for row in await fetch(engine, _LIST, {"skipped": skipped, "store": store})]


async def read_parked_of_pair(engine: Engine, subject: int, object_: int, store: str = "") -> list[ParkedEvent]:
    """Return the parked and the skipped events of one pair, oldest first."""
    parameters = {"subject": subject, "object": object_, "store": store}
    return [ParkedEvent(*row) for row in await fetch(engine, _LIST_OF_PAIR, parameters)]


async def unpark(engine: Engine, subject: int, object_: int, up_to: int, store: str = "") -> int:
    """Delete a pair's parked events up to a position, which the views hold by now; return how many there were.

    Events parked behind them meanwhile stay: ``read_parked_of_pair`` returns them.
    """
    return await execute(engine, _UNPARK, {"subject": subject, "object": object_, "up_to": up_to, "store": store})


async def mark_skipped(engine: Engine, position: int, who: str, why: str) -> bool:
    """Leave one parked event out of views and decisions for good; return False when it is not parked."""
    skipped: bool = (await fetch(engine, _MARK_SKIPPED, {"position": position, "who": who, "why": why}))[0][0]
    return skipped
