"""The register of generations of views: in Postgres, so that a Redis which lost all never gets a number twice."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.postgres import translated_errors

State = Literal["building", "live", "old", "dropped"]

# Numbers up to this one are taken by generations that the register, restored to an older state, does not know of.
_PASS: Final = text(
    """SELECT count(nextval('generations_number_seq')) FROM generate_series(1, CAST(:above AS bigint)
    - (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM generations_number_seq))"""
)
_BEGIN: Final = text("INSERT INTO generations (lanes, reason) VALUES (:lanes, :reason) RETURNING number")
_MARK: Final = text("UPDATE generations SET state = :state, changed_at = now() WHERE number = :number")
_LIVE: Final = text(
    """UPDATE generations SET state = CASE WHEN number = :number THEN 'live' ELSE 'old' END, changed_at = now()
    WHERE number = :number OR state = 'live'"""
)
_NOTE: Final = text("UPDATE generations SET reason = :reason WHERE number = :number")
_ALL: Final = text(
    """SELECT number, lanes, state, reason, started_at, changed_at FROM generations
    WHERE state <> 'dropped' ORDER BY number"""
)


class Generation(msgspec.Struct, frozen=True):
    """A generation as the register has it; what readers see is the pointer in Redis."""

    number: int
    lanes: int
    state: State
    reason: str
    started_at: datetime
    changed_at: datetime


async def begin_generation(engine: AsyncEngine, lanes: int, reason: str, above: int = 0) -> int:
    """Register a generation that is going to be built; give its number, which none before it has had, and which is
    higher than ``above``."""
    with translated_errors():
        async with engine.connect() as connection:
            await connection.execute(_PASS, {"above": above})
            number: int = (await connection.execute(_BEGIN, {"lanes": lanes, "reason": reason})).scalar_one()
            return number


async def mark(engine: AsyncEngine, number: int, state: State) -> None:
    """Register what has become of a generation; of a live one, that the one before is old."""
    with translated_errors():
        async with engine.connect() as connection:
            if state == "live":
                await connection.execute(_LIVE, {"number": number})
            else:
                await connection.execute(_MARK, {"number": number, "state": state})


async def note(engine: AsyncEngine, number: int, reason: str) -> None:
    """Write down what a generation is for, or why it was not finished."""
    with translated_errors():
        async with engine.connect() as connection:
            await connection.execute(_NOTE, {"number": number, "reason": reason})


async def registered(engine: AsyncEngine) -> list[Generation]:
    """Give the generations that may have keys, oldest first."""
    with translated_errors():
        async with engine.connect() as connection:
            return [Generation(*row) for row in await connection.execute(_ALL)]
