"""Leases with fencing tokens: who may project which lanes. Only Postgres' clock counts, so clocks need not agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.postgres import translated_errors

# A killed owner's lanes are free after this long; an owner renews three times within it.
LEASE_S: Final = 4.0

_TAKE: Final = text(
    """INSERT INTO leases AS l (name, owner, fence, expires_at)
    SELECT n, :owner, 1, clock_timestamp() + make_interval(secs => :seconds)
    FROM unnest(CAST(:names AS text[])) n ORDER BY n
    ON CONFLICT (name) DO UPDATE SET
        owner = excluded.owner,
        fence = l.fence
            + CASE WHEN l.owner = excluded.owner AND l.expires_at > clock_timestamp() THEN 0 ELSE 1 END,
        expires_at = excluded.expires_at
    WHERE l.owner = excluded.owner OR l.expires_at <= clock_timestamp()
    RETURNING name, fence"""
)
_RELEASE: Final = text("UPDATE leases SET expires_at = clock_timestamp() WHERE owner = :owner")


async def take(engine: AsyncEngine, names: Sequence[str], owner: UUID, seconds: float = LEASE_S) -> dict[str, int]:
    """Take or renew the leases that are free or already ``owner``'s; give name -> fence of those held now.

    A renewal in time keeps its fence. A lease taken anew, from another owner or too late, has a higher one.
    """
    with translated_errors():
        async with engine.connect() as connection:
            rows = await connection.execute(_TAKE, {"names": list(names), "owner": owner, "seconds": seconds})
            return {row[0]: row[1] for row in rows}


async def release(engine: AsyncEngine, owner: UUID) -> None:
    """Give back all leases of ``owner``, so that a successor need not wait for their end."""
    with translated_errors():
        async with engine.connect() as connection:
            await connection.execute(_RELEASE, {"owner": owner})
