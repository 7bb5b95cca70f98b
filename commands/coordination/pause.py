"""Pausing the projection: a row in Postgres that every worker reads, for one Redis (by its word) or for all."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, execute, fetch

_PAUSE: Final = text(
    """INSERT INTO pauses (store, only_one, who, why)
    VALUES (CAST(:store AS text), CASE WHEN :store = '' THEN true END, :who, :why)
    ON CONFLICT (store) DO UPDATE SET who = :who, why = :why"""
)
_RESUME: Final = text("DELETE FROM pauses WHERE store IN ('', :store)")
_READ: Final = text(
    """SELECT who, why, since FROM pauses
    WHERE store IN ('', :store) OR CAST(:store AS text) IS NULL ORDER BY store DESC"""
)


class Pause(msgspec.Struct, frozen=True):
    """A pause of the projection: its operator, its reason and its start."""

    who: str
    why: str
    since: datetime


async def pause_projection(engine: Engine, who: str, why: str, store: str = "") -> None:
    """Stop the projection within a second. Commands and reads go on, and the views fall behind."""
    await execute(engine, _PAUSE, {"who": who, "why": why, "store": store})


async def resume_projection(engine: Engine, store: str = "") -> bool:
    """End the pause; return False when there was none."""
    return await execute(engine, _RESUME, {"store": store}) > 0


async def read_pause(engine: Engine, store: str | None = None) -> Pause | None:
    """Return the pause, or None while the projection runs."""
    rows = await fetch(engine, _READ, {"store": store})
    return Pause(*rows[0]) if rows else None
