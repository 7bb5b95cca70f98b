"""The register of generations of views. It is in Postgres, so that no number is reused after Redis lost everything."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, connected, execute, fetch

# A kept generation holds what the log has lost: only ``follows generations prune`` deletes it.
GenerationState = Literal["building", "live", "old", "kept", "deleted"]

# Generations up to this number exist in Redis, and a register restored from a backup does not know them.
_ADVANCE: Final = text(
    """SELECT count(nextval('generations_number_seq')) FROM generate_series(1, CAST(:above AS bigint)
    - (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM generations_number_seq))"""
)
_INSERT: Final = text(
    "INSERT INTO generations (store, partitions, reason) VALUES (:store, :partitions, :reason) RETURNING number"
)
_SET_STATE: Final = text(
    "UPDATE generations SET state = :state, changed = nextval('generation_changes') WHERE number = :number"
)
_SET_LIVE: Final = text(
    """UPDATE generations SET state = CASE WHEN number = :number THEN 'live' ELSE 'old' END,
        changed = nextval('generation_changes')
    WHERE store = (SELECT store FROM generations WHERE number = :number) AND (number = :number OR state = 'live')"""
)
# A register that was restored to an older state may not know the generation.
_KEEP: Final = text(
    """INSERT INTO generations (store, number, partitions, state, reason) OVERRIDING SYSTEM VALUE
    VALUES (:store, :number, :partitions, 'kept', :reason)
    ON CONFLICT (number) DO UPDATE SET state = 'kept', reason = :reason,
        changed = nextval('generation_changes')
    WHERE generations.state <> 'kept'"""
)
_SET_REASON: Final = text("UPDATE generations SET reason = :reason WHERE number = :number")
_LIST: Final = text(
    """SELECT number, partitions, state, reason, started_at, changed FROM generations
    WHERE state <> 'deleted' AND (store = :store OR CAST(:store AS text) IS NULL) ORDER BY number"""
)
# What an emptied Redis had, by its word of before.
_FORGET: Final = text("UPDATE generations SET state = 'deleted' WHERE store = :store AND state <> 'deleted'")
# Rows of a version that knew only one Redis go to the Redis whose live view is among them, or to the first that gets a
# word.
_CLAIM: Final = tuple(
    text(
        f"""UPDATE {table} SET store = :store WHERE store = ''
        AND (EXISTS (SELECT FROM generations WHERE store = '' AND number = :live)
            OR NOT EXISTS (SELECT FROM generations WHERE store NOT IN ('', :store)))"""
    )
    for table in ("parked", "generations")
)


class Generation(msgspec.Struct, frozen=True):
    """A generation as the register has it. Which one readers use is decided by the pointer in Redis.

    ``changed`` rises with each change of a state: of two generations, the one whose state changed later has more.
    """

    number: int
    partitions: int
    state: GenerationState
    reason: str
    started_at: datetime
    changed: int


async def register_generation(engine: Engine, partitions: int, reason: str, above: int = 0, store: str = "") -> int:
    """Register a generation that is to be built in the Redis of this word; return its number, a new one that is higher
    than ``above``. No two Redis have generations with one number."""
    async with connected(engine) as connection:
        await connection.execute(_ADVANCE, {"above": above})
        number: int = (
            await connection.execute(_INSERT, {"store": store, "partitions": partitions, "reason": reason})
        ).scalar_one()
        return number


async def set_state(engine: Engine, number: int, state: GenerationState) -> None:
    """Set the state of a generation. Making one live makes the one before it old, in the same statement."""
    statement = _SET_LIVE if state == "live" else _SET_STATE
    await execute(engine, statement, {"number": number, "state": state})


async def set_kept(engine: Engine, number: int, partitions: int, reason: str, store: str = "") -> None:
    """Keep a generation until it is pruned by hand, and say why; no later generation gets its number."""
    async with connected(engine) as connection:
        await connection.execute(_ADVANCE, {"above": number})
        parameters = {"store": store, "number": number, "partitions": partitions, "reason": reason}
        await connection.execute(_KEEP, parameters)


async def set_reason(engine: Engine, number: int, reason: str) -> None:
    """Set why a generation was built, or why its build was not finished."""
    await execute(engine, _SET_REASON, {"number": number, "reason": reason})


async def list_generations(engine: Engine, store: str | None = None) -> list[Generation]:
    """Return the generations that may have keys in the Redis of this word, or in any, oldest first."""
    return [Generation(*row) for row in await fetch(engine, _LIST, {"store": store})]


async def forget_store(engine: Engine, store: str) -> None:
    """Mark all generations of a Redis that was emptied as deleted."""
    await execute(engine, _FORGET, {"store": store})


async def claim_rows(engine: Engine, store: str, live: int) -> None:
    """Assign the rows of a version that knew only one Redis to the Redis of this word, if they are its own: its live
    generation, 0 for none, is among them, or no other Redis has a word."""
    for statement in _CLAIM:
        await execute(engine, statement, {"store": store, "live": live})
