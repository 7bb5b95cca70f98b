"""Leases with fencing tokens: who may project which lanes. Only Postgres' clock counts, so clocks need not agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.postgres import translated_errors

# A killed owner's lanes are taken over within this and one renewal: 4 s. An owner renews three times within it.
LEASE_S: Final = 3.0

# The lease of whoever builds a view; those on groups of lanes begin with the other.
BUILD: Final = "rebuild"
LANES: Final = "lanes:"

_SHARE: Final = text("SELECT held_name, held_fence FROM share_leases(CAST(:names AS text[]), :owner, :seconds, :fresh)")
_TAKE: Final = text("SELECT take_lease(:name, :owner, :seconds)")
_NEXT: Final = text("SELECT nextval('fences')")
# Not setval, which could take back a number that somebody draws at the same moment.
_PASS: Final = text(
    """SELECT count(nextval('fences'))
    FROM generate_series(1, CAST(:fence AS bigint)
        - (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM fences))"""
)
_RELEASE: Final = text(
    """WITH gone AS (DELETE FROM workers WHERE owner = :owner)
    UPDATE leases SET expires_at = clock_timestamp() WHERE owner = :owner AND expires_at > clock_timestamp()"""
)
_OWNERS: Final = text(
    """SELECT name, owner, fence, extract(epoch FROM expires_at - clock_timestamp())::float
    FROM leases WHERE expires_at > clock_timestamp() ORDER BY name"""
)


async def share(
    engine: AsyncEngine, names: Sequence[str], owner: UUID, seconds: float = LEASE_S, *, fresh: bool = False
) -> dict[str, int]:
    """Hold a fair share of ``names`` among the workers alive; give name -> fence of those held now.

    A renewal in time keeps its fence unless ``fresh``. A lease taken anew has a higher one than all before.
    """
    with translated_errors():
        async with engine.connect() as connection:
            parameters = {"names": list(names), "owner": owner, "seconds": seconds, "fresh": fresh}
            return {row[0]: row[1] for row in await connection.execute(_SHARE, parameters)}


async def take(engine: AsyncEngine, name: str, owner: UUID, seconds: float = LEASE_S) -> int | None:
    """Take or renew a lease that one owner has at a time; give its fence, or None when it is another's."""
    with translated_errors():
        async with engine.connect() as connection:
            parameters = {"name": name, "owner": owner, "seconds": seconds}
            fence: int | None = (await connection.execute(_TAKE, parameters)).scalar()
            return fence


async def next_fence(engine: AsyncEngine) -> int:
    """Give a fence that is higher than all before it, for a single step under a lease that is held."""
    with translated_errors():
        async with engine.connect() as connection:
            fence: int = (await connection.execute(_NEXT)).scalar_one()
            return fence


async def pass_over(engine: AsyncEngine, fence: int) -> None:
    """Never give out a fence up to this one: a log that was restored to an older state would do so, and the views,
    which have seen it, would refuse its owner."""
    with translated_errors():
        async with engine.connect() as connection:
            await connection.execute(_PASS, {"fence": fence})


async def release(engine: AsyncEngine, owner: UUID) -> None:
    """Give back all leases of ``owner``, so that a successor need not wait for their end."""
    with translated_errors():
        async with engine.connect() as connection:
            await connection.execute(_RELEASE, {"owner": owner})


class Lease(msgspec.Struct, frozen=True):
    """A lease that somebody holds now, for ``seconds`` more."""

    name: str
    owner: UUID
    fence: int
    seconds: float


async def owners(engine: AsyncEngine) -> list[Lease]:
    """Give the leases that are held now."""
    with translated_errors():
        async with engine.connect() as connection:
            return [Lease(*row) for row in await connection.execute(_OWNERS)]
