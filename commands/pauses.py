"""Pausing the projection: a note in Postgres that every worker reads, with who, why and since when."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.postgres import translated_errors

_PAUSE: Final = text(
    "INSERT INTO pauses (who, why) VALUES (:who, :why) ON CONFLICT (only_one) DO UPDATE SET who = :who, why = :why"
)
_RESUME: Final = text("DELETE FROM pauses")
_PAUSED: Final = text("SELECT who, why, since FROM pauses")


class Pause(msgspec.Struct, frozen=True):
    """Who stopped the projection, why, and since when."""

    who: str
    why: str
    since: datetime


async def pause(engine: AsyncEngine, who: str, why: str) -> None:
    """Stop the projection within a second; commands and reads go on, the views fall behind."""
    with translated_errors():
        async with engine.connect() as connection:
            await connection.execute(_PAUSE, {"who": who, "why": why})


async def resume(engine: AsyncEngine) -> bool:
    """Let the projection go on; False when it was not paused."""
    with translated_errors():
        async with engine.connect() as connection:
            return (await connection.execute(_RESUME)).rowcount > 0


async def paused(engine: AsyncEngine) -> Pause | None:
    """Give the pause, if there is one."""
    with translated_errors():
        async with engine.connect() as connection:
            row = (await connection.execute(_PAUSED)).first()
            return Pause(*row) if row else None
