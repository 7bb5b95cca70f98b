"""Ending the follows of erased users, batch by batch; the erasure's row remembers how far it came, whoever dies."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.postgres import translated_errors

# A batch holds the log's lock for some 100 ms: short enough that no command waits noticeably for it.
BATCH: Final = 5_000

_OPEN: Final = text("SELECT number FROM erasures WHERE finished_at IS NULL ORDER BY number LIMIT 100")
_END_FOLLOWS: Final = text("SELECT ended, last_position, finished FROM end_follows(:number, :limit)")


async def unfinished(engine: AsyncEngine) -> list[int]:
    """Give the numbers of (up to 100) erased users whose follows have not all ended."""
    with translated_errors():
        async with engine.connect() as connection:
            return list((await connection.execute(_OPEN)).scalars())


async def end_some_follows(engine: AsyncEngine, number: int, limit: int = BATCH) -> tuple[int | None, bool]:
    """End up to ``limit`` follows of the erased user; give (last log position or None, whether all are ended)."""
    with translated_errors():
        async with engine.connect() as connection:
            row = (await connection.execute(_END_FOLLOWS, {"number": number, "limit": limit})).one()
            return row[1], row[2]
