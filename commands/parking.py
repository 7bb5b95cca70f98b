"""Parked events: what could not be projected, and the later events of the same pairs, which wait behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.postgres import translated_errors

_PARK: Final = text(
    """INSERT INTO parked (position, subject, object, reason)
    SELECT * FROM unnest(CAST(:positions AS bigint[]), CAST(:subjects AS bigint[]),
        CAST(:objects AS bigint[]), CAST(:reasons AS text[]))
    ON CONFLICT DO NOTHING"""
)
# The row in front is locked, so that this and an ``unpark`` of the pair come one after the other: either the row is
# gone and nothing is parked, or what is parked here is there when the other looks for what is left.
_PARK_BEHIND: Final = text(
    """INSERT INTO parked (position, subject, object, reason)
    SELECT w.position, w.subject, w.object, 'waits behind a parked event of its pair'
    FROM unnest(CAST(:positions AS bigint[]), CAST(:subjects AS bigint[]), CAST(:objects AS bigint[]))
        AS w (position, subject, object)
    CROSS JOIN LATERAL (
        SELECT FROM parked p WHERE p.subject = w.subject AND p.object = w.object AND p.position <= w.position
        AND p.skipped_at IS NULL ORDER BY p.position LIMIT 1 FOR SHARE) front
    ON CONFLICT DO NOTHING"""
)
_ARE_PARKED: Final = text(
    "SELECT position FROM parked WHERE position = ANY(CAST(:positions AS bigint[])) AND skipped_at IS NULL"
)
_WAITING: Final = text(
    """SELECT position, subject, object, reason, parked_at, skipped_by, skipped_why FROM parked
    WHERE skipped_at IS NULL OR :skipped ORDER BY position"""
)
_UNPARK: Final = text(
    """DELETE FROM parked WHERE subject = :subject AND object = :object AND position <= :up_to
    AND skipped_at IS NULL"""
)
_SKIP: Final = text(
    """UPDATE parked SET skipped_by = :who, skipped_why = :why, skipped_at = now()
    WHERE position = :position AND skipped_at IS NULL"""
)
_OF_PAIR: Final = text(
    """SELECT position, subject, object, reason, parked_at, skipped_by, skipped_why FROM parked
    WHERE subject = :subject AND object = :object ORDER BY position"""
)


class Parked(msgspec.Struct, frozen=True):
    """An event that the views do not hold, and why."""

    position: int
    subject: int
    object: int
    reason: str
    parked_at: datetime
    skipped_by: str | None = None
    skipped_why: str | None = None

    @property
    def skipped(self) -> bool:
        """Whether somebody has decided to leave it out for good."""
        return self.skipped_by is not None


async def park(engine: AsyncEngine, rows: Sequence[tuple[int, int, int, str]]) -> None:
    """Park events given as (position, subject, object, reason); parking one twice changes nothing."""
    positions, subjects, objects, reasons = (list(column) for column in zip(*rows, strict=True))
    with translated_errors():
        async with engine.connect() as connection:
            await connection.execute(
                _PARK, {"positions": positions, "subjects": subjects, "objects": objects, "reasons": reasons}
            )


async def park_behind(engine: AsyncEngine, rows: Sequence[tuple[int, int, int]]) -> set[int]:
    """Park those of the events (position, subject, object) that have a parked one of their pair before them, or are
    parked already; give their positions."""
    positions, subjects, objects = (list(column) for column in zip(*rows, strict=True))
    with translated_errors():
        async with engine.connect() as connection:
            parameters = {"positions": positions, "subjects": subjects, "objects": objects}
            await connection.execute(_PARK_BEHIND, parameters)
            return set((await connection.execute(_ARE_PARKED, {"positions": positions})).scalars())


async def parked(engine: AsyncEngine, *, skipped: bool = False) -> list[Parked]:
    """Give what is parked, oldest first; with ``skipped`` also what somebody decided to leave out."""
    with translated_errors():
        async with engine.connect() as connection:
            return [Parked(*row) for row in await connection.execute(_WAITING, {"skipped": skipped})]


async def parked_of(engine: AsyncEngine, subject: int, object_: int) -> list[Parked]:
    """Give what is parked of one pair, and what was skipped, oldest first."""
    with translated_errors():
        async with engine.connect() as connection:
            rows = await connection.execute(_OF_PAIR, {"subject": subject, "object": object_})
            return [Parked(*row) for row in rows]


async def unpark(engine: AsyncEngine, subject: int, object_: int, up_to: int) -> int:
    """Forget a pair's parked events up to a position, because the views hold them now; give how many.

    ``parked_of`` then tells, for good when it is nothing, what has been parked behind them meanwhile.
    """
    with translated_errors():
        async with engine.connect() as connection:
            parameters = {"subject": subject, "object": object_, "up_to": up_to}
            return (await connection.execute(_UNPARK, parameters)).rowcount


async def skip(engine: AsyncEngine, position: int, who: str, why: str) -> bool:
    """Leave one event out of the views for good, on somebody's word; False when it is not parked."""
    with translated_errors():
        async with engine.connect() as connection:
            parameters = {"position": position, "who": who, "why": why}
            return (await connection.execute(_SKIP, parameters)).rowcount > 0
