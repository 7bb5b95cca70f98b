"""Leases with fencing tokens: which worker projects which partitions, and which process builds a view.

A lease has no end. Its owner renews a number, and a process that wants leases looks at the numbers of all owners. An
owner whose number stays the same over four looks is dead, and its leases are free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, execute, fetch
from commands.process import this_process

logger: Final = logging.getLogger(__name__)

# An owner renews this often, and must within LOOKS - 1 looks of any other process.
RENEW_S: Final = 1.0
# The shortest time between two looks. A little less than RENEW_S: a process looks when it has renewed.
LOOK_S: Final = 0.8
LOOKS: Final = 4
# After a longer time between two looks, the process itself was stopped or Postgres hung, for the owners, too.
LOOK_GAP_MAX_S: Final = 3.0
# The leases of a killed owner are free after this, when another process looks each RENEW_S.
TAKE_OVER_S: Final = LOOKS * RENEW_S

# The lease of the process that builds a view. Those on groups of partitions begin with the prefix.
BUILD_LEASE: Final = "rebuild"
GROUP_PREFIX: Final = "group:"

_ACQUIRE_SHARE: Final = text(
    """SELECT held_name, held_fence
    FROM acquire_lease_share(:store, CAST(:names AS text[]), :owner, :new_fences, :runs)"""
)
_ACQUIRE: Final = text("SELECT acquire_lease(:store, :name, :owner)")
# A row that was deleted and made again lacks it.
_NAME: Final = text(
    "UPDATE lease_owners SET process = CAST(:process AS jsonb) WHERE owner = :owner AND process IS NULL"
)
_NEXT_FENCE: Final = text("SELECT nextval('fences')")
# Not setval, which could take back a number that another process draws at the same moment.
_ADVANCE_FENCES: Final = text(
    """SELECT count(nextval('fences'))
    FROM generate_series(1, CAST(:fence AS bigint)
        - (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM fences))"""
)
_RELEASE: Final = text("DELETE FROM lease_owners WHERE owner = :owner")
_OWNERS: Final = text("SELECT owner, renewal FROM lease_owners")
# An owner that has renewed meanwhile has another number and stays.
_DELETE_DEAD: Final = text(
    """DELETE FROM lease_owners o USING unnest(CAST(:owners AS uuid[]), CAST(:renewals AS bigint[])) d (owner, renewal)
    WHERE o.owner = d.owner AND o.renewal = d.renewal
    RETURNING o.owner, coalesce(
        (o.process->>'kind') || ' ' || (o.process->>'pid') || ' on ' || (o.process->>'host'), 'a process')"""
)
_LEASES: Final = text(
    """SELECT l.name, l.owner, l.fence, o.renewal, l.store FROM leases l JOIN lease_owners o USING (owner)
    ORDER BY l.store, l.name"""
)
_FED: Final = text("SELECT DISTINCT store FROM lease_owners WHERE projects AND store <> ''")
_RUNS: Final = text(
    "SELECT DISTINCT runs FROM lease_owners WHERE store = :store AND projects AND runs <> '' ORDER BY 1"
)


class Lease(msgspec.Struct, frozen=True):
    """A lease and its owner's latest renewal, a number that only grows. The owner may be dead: see ``LeaseWatch``.

    ``store`` is the word of the Redis that the lease is about.
    """

    name: str
    owner: UUID
    fence: int
    renewal: int
    store: str


async def acquire_share(
    engine: Engine, names: Sequence[str], owner: UUID, *, new_fences: bool = False, store: str = "", runs: str = ""
) -> dict[str, int]:
    """Renew the owner's leases and take free ones, up to its fair share of ``names``; return name -> fence of all held.

    ``store`` is the word of the Redis that they are about, and ``runs`` names the servers that the owner reaches there.

    A lease that no other owner had meanwhile keeps its fence, unless ``new_fences``. Any other lease gets a fence
    higher than all before.
    """
    parameters = {"names": list(names), "owner": owner, "new_fences": new_fences, "store": store, "runs": runs}
    held = {row[0]: row[1] for row in await fetch(engine, _ACQUIRE_SHARE, parameters)}
    await _name_owner(engine, owner)
    return held


async def acquire(engine: Engine, name: str, owner: UUID, store: str = "") -> int | None:
    """Take or renew a lease that has one owner at a time; return its fence, or None when another owner holds it."""
    fence: int | None = (await fetch(engine, _ACQUIRE, {"name": name, "owner": owner, "store": store}))[0][0]
    await _name_owner(engine, owner)
    return fence


async def _name_owner(engine: Engine, owner: UUID) -> None:
    """Note which process an owner is, for operators."""
    await execute(engine, _NAME, {"owner": owner, "process": msgspec.json.encode(this_process()).decode()})


async def next_fence(engine: Engine) -> int:
    """Return a fence higher than all before it, for a single step under a lease that is held."""
    fence: int = (await fetch(engine, _NEXT_FENCE))[0][0]
    return fence


async def advance_fences(engine: Engine, fence: int) -> None:
    """Make all later fences higher than ``fence``.

    A database restored from a backup would draw older fences again, and views that have seen newer ones refuse those.
    """
    await fetch(engine, _ADVANCE_FENCES, {"fence": fence})


async def release(engine: Engine, owner: UUID) -> None:
    """Release all leases of ``owner``, so that the next owner need not wait until this one is seen to have ended."""
    await execute(engine, _RELEASE, {"owner": owner})


async def list_leases(engine: Engine) -> list[Lease]:
    """Return the leases that are not free, of every Redis, by name."""
    return [Lease(*row) for row in await fetch(engine, _LEASES)]


async def fed_stores(engine: Engine) -> set[str]:
    """Return the words of all Redis that workers feed from this log, as far as their owners are not seen dead."""
    return {row[0] for row in await fetch(engine, _FED)}


async def list_runs(engine: Engine, store: str) -> list[str]:
    """Return the servers of one Redis as each of its workers names them, each answer once."""
    return [row[0] for row in await fetch(engine, _RUNS, {"store": store})]


class LeaseWatch:
    """Sees which owners of leases have stopped, by the looks of this process alone, and makes their leases free."""

    def __init__(
        self,
        engine: Engine,
        *,
        look_s: float = LOOK_S,
        gap_max_s: float = LOOK_GAP_MAX_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._look_s, self._gap_max_s, self._clock = engine, look_s, gap_max_s, clock
        # (owner, renewal) -> how many looks in a row have seen it.
        self._looks: dict[tuple[UUID, int], int] = {}
        self._looked_at = float("-inf")

    async def look(self) -> None:
        """Look at the owners, unless the last look was just now, and delete those that are dead. To be called often.

        Raises LogUnavailable; such a look does not count, and begins the count again.
        """
        if self._clock() - self._looked_at < self._look_s:
            return
        before, self._looks = self._looks, {}
        rows = await fetch(self._engine, _OWNERS)
        last, self._looked_at = self._looked_at, self._clock()
        if self._looked_at - last > self._gap_max_s:
            before = {}
        self._looks = {(row[0], row[1]): before.get((row[0], row[1]), 0) + 1 for row in rows}
        if dead := [seen for seen, looks in self._looks.items() if looks >= LOOKS]:
            await self._delete(dead)

    async def _delete(self, dead: Sequence[tuple[UUID, int]]) -> None:
        columns = {"owners": [owner for owner, _ in dead], "renewals": [renewal for _, renewal in dead]}
        for owner, process in await fetch(self._engine, _DELETE_DEAD, columns):
            logger.warning("%s of owner %s stopped renewing its leases: they are free", process, owner)
