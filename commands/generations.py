"""Numbers for generations of views: from Postgres, so that a Redis which lost everything never gets one twice."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.postgres import translated_errors

_NEXT: Final = text("SELECT nextval('generations')")


async def next_generation(engine: AsyncEngine) -> int:
    """Give a number that no generation of views has had."""
    with translated_errors():
        async with engine.connect() as connection:
            number: int = (await connection.execute(_NEXT)).scalar_one()
            return number
