"""Ending the follows of erased users in batches. A row stores how far each erasure is, so a kill loses nothing."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from commands.db.postgres import Engine, fetch

# A batch holds the log's lock for some 100 ms: short enough that no command waits noticeably for it.
ERASURE_BATCH: Final = 5_000

_UNFINISHED: Final = text("SELECT number FROM erasures WHERE finished_at IS NULL ORDER BY number LIMIT 100")
_END_FOLLOWS: Final = text("SELECT last_position, finished FROM end_follows(:number, :limit)")


async def unfinished(engine: Engine) -> list[int]:
    """Return the numbers of up to 100 erased users whose follows have not all ended."""
    return [row[0] for row in await fetch(engine, _UNFINISHED)]


async def end_some_follows(engine: Engine, number: int, limit: int = ERASURE_BATCH) -> tuple[int | None, bool | None]:
    """End up to ``limit`` follows of the erased user; return (last log position or None, True when all have ended).

    (None, None) when another process is ending follows, and nothing was done.
    """
    ((last_position, finished),) = await fetch(engine, _END_FOLLOWS, {"number": number, "limit": limit})
    return last_position, finished
