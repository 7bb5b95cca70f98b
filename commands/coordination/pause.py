"""Pausing the projection: one row in Postgres that every worker reads."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, execute, fetch

_PAUSE: Final = text(
    "INSERT INTO pauses (who, why) VALUES (:who, :why) ON CONFLICT (only_one) DO UPDATE SET who = :who, why = :why"
)
_RESUME: Final = text("DELETE FROM pauses")
_READ: Final = text("SELECT who, why, since FROM pauses")


class Pause(msgspec.Struct, frozen=True):
    """A pause of the projection: its operator, its reason and its start."""

    who: str
    why: str
    since: datetime


async def pause_projection(engine: Engine, who: str, why: str) -> None:
    """Stop the projection within a second. Commands and reads go on, and the views fall behind."""
    await execute(engine, _PAUSE, {"who": who, "why": why})


async def resume_projection(engine: Engine) -> bool:
    """End the pause; return False when there was none."""
    return await execute(engine, _RESUME) > 0


async def read_pause(engine: Engine) -> Pause | None:
    """Return the pause, or None while the projection runs."""
    rows = await fetch(engine, _READ)
    return Pause(*rows[0]) if rows else None
