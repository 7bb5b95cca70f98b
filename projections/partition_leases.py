"""The leases that a worker's loop holds on groups of partitions, and their fences."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final
from uuid import uuid4

from commands.coordination import leases
from commands.db.postgres import Engine
from projections.client.client import RedisClient
from projections.keys import LEASE_GROUPS, View, lease_group_of
from projections.views.generations import Checkpoint
from projections.views.server_watch import read_runs, wait_for_answer

logger: Final = logging.getLogger(__name__)


class PartitionLeases:
    """Renews the leases of one worker, and takes its fair share of those that are free."""

    def __init__(self, engine: Engine, redis: RedisClient, renew_s: float, look_s: float, acquire_s: float) -> None:
        """``acquire_s`` is the time between two renewals of a worker that lacks some leases."""
        self._engine, self._redis, self._renew_s, self._acquire_s = engine, redis, renew_s, acquire_s
        self.owner = uuid4()
        # The word of the Redis that the leases are about.
        self.store = ""
        self._watch = leases.LeaseWatch(engine, look_s=look_s)
        # Name of each lease that is held -> its fence.
        self.fences: dict[str, int] = {}
        # When the leases must be renewed, by the monotonic clock.
        self.renew_at = 0.0

    def of_view(self, view: View) -> dict[int, int]:
        """Return the partitions that this worker holds a lease on, with the fences of their leases."""
        by_group = {group: self.fences.get(_lease(group)) for group in range(LEASE_GROUPS)}
        fences = {partition: by_group[lease_group_of(partition)] for partition in range(view.partitions)}
        return {partition: fence for partition, fence in fences.items() if fence is not None}

    async def renew(self, *, fresh: bool = False) -> None:
        """Renew the leases and take this worker's fair share of those that are free; ``fresh`` for new fences.

        Without an answer of Redis nothing is renewed: another worker, which may have one, takes the leases over.
        """
        began = time.monotonic()
        self.renew_at = began + self._renew_s
        await wait_for_answer(self._redis)
        runs = await read_runs(self._redis)
        names = [_lease(group) for group in range(LEASE_GROUPS)]
        before = self.fences
        self.fences = await leases.acquire_share(
            self._engine, names, self.owner, new_fences=fresh, store=self.store, runs=runs
        )
        if before.keys() != self.fences.keys():
            logger.info("lease groups of this worker: %s (before: %s)", _groups(self.fences), _groups(before))
        await self._watch.look()
        if len(self.fences) < LEASE_GROUPS:
            self.renew_at = time.monotonic() + min(self._acquire_s, self._renew_s)

    async def overtake(self, leased: Mapping[int, int], found: Mapping[int, Checkpoint | None]) -> None:
        """Take new fences if a partition has seen a higher one than that of its lease.

        A build or a tool leaves such a fence behind. It may also be that of a worker that has the lease now; Postgres
        knows, and gives new fences only for the leases that this worker still holds.
        """
        higher = [at.fence for partition, at in found.items() if at is not None and at.fence > leased[partition]]
        if higher:
            await leases.advance_fences(self._engine, max(higher))
            await self.renew(fresh=True)

    async def release(self) -> None:
        """Release all leases, so that a successor need not wait. Raises LogUnavailable."""
        held, self.fences = self.fences, {}
        await leases.release(self._engine, self.owner)
        if held:
            logger.info("this worker has given its leases back: lease groups %s", _groups(held))


def _groups(names: Iterable[str]) -> str:
    return ", ".join(sorted(name.removeprefix(leases.GROUP_PREFIX) for name in names)) or "none"


def _lease(group: int) -> str:
    return f"{leases.GROUP_PREFIX}{group}"
