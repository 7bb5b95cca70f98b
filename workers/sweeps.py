"""What a worker process does by itself, without a job: end the follows of erased users, retry parked events that it can
read, and delete what is too old."""

from __future__ import annotations

import logging
import time
from typing import Final

from commands import erasure, idempotency, profiles
from commands.coordination import leases
from commands.db.postgres import Engine
from commands.errors import Unavailable
from projections.client.client import RedisClient
from projections.errors import StillParked, ViewLost
from projections.keys import View
from projections.signals.wakeups import Wakeup
from projections.verify.retry_parked import retry_readable
from projections.views import generations
from projections.views.feeder_record import registered, store_of

logger: Final = logging.getLogger(__name__)

# An erasure begins within this after its commit.
SWEEP_S: Final = 1.0
# Old answers and released logins only take up space.
HOUSEKEEPING_S: Final = 60.0


class Sweeper:
    """Looks into Postgres for work that is left to do, and does it."""

    def __init__(
        self, engine: Engine, redis: RedisClient, wakeup: Wakeup, housekeeping_s: float = HOUSEKEEPING_S
    ) -> None:
        self._engine, self._redis, self._wakeup, self._housekeeping_s = engine, redis, wakeup, housekeeping_s
        self._housekeeping_at = 0.0

    async def sweep(self) -> None:
        """Finish every erasure, retry what this version can read, and, once in a while, delete what is too old.

        One that fails does not stop the others; its error is raised at the end. Raises LogUnavailable and
        ViewsUnavailable.
        """
        failure: Exception | None = None
        for number in await erasure.unfinished(self._engine):
            try:
                if not await self._end_follows(number):
                    break
            except Unavailable:
                raise
            except Exception as error:
                failure = error
        try:
            await self._retry_readable()
        except (StillParked, ViewLost) as error:
            failure = error
        if time.monotonic() >= self._housekeeping_at:
            self._housekeeping_at = time.monotonic() + self._housekeeping_s
            await self._delete_old()
        if failure is not None:
            raise failure

    async def _end_follows(self, number: int) -> bool:
        """End the follows of an erased user, batch by batch; return False when another worker does that now."""
        finished: bool | None = False
        have_ended = False
        while finished is False:
            position, finished = await erasure.end_some_follows(self._engine, number)
            if position is not None:
                have_ended = True
                self._wakeup.send(position)
        if finished and have_ended:  # not where there were none, or where another worker has ended them meanwhile
            logger.info("the follows of erased user %d have ended", number)
        return finished is not None

    async def _retry_readable(self) -> None:
        """Project what an older version has parked because it did not know the kind of event."""
        for pair in await retry_readable(self._engine, self._redis):
            logger.info("pair (%d, %d) is projected again: this version can read its parked events", *pair)

    async def _delete_old(self) -> None:
        """Delete the answers and the released logins that are old and that every view has passed.

        A view that is kept for undo stays where it is, maybe for months. It is brought up to date before readers see
        it, and needs the logins that were released since for that, but no answers. While another Redis is fed, nothing
        is deleted: how far its views have come is not known here.
        """
        if await leases.fed_stores(self._engine) - {await store_of(self._redis)}:
            return
        positions: dict[str, list[int]] = {"live": [], "building": [], "old": []}
        for known in await registered(self._engine, self._redis):
            position = await generations.view_position(self._redis, View(known.number, known.partitions))
            is_of_use = position is not None or known.state != "old"  # an old one must have all partitions
            if is_of_use and known.state != "kept":  # no reader ever returns to what the log has lost
                positions[known.state].append(position or 0)
        if not positions["live"]:
            return
        passed = min(positions["live"] + positions["building"])
        await idempotency.delete_old_answers(self._engine, passed)
        await profiles.delete_released_logins(self._engine, min([passed, *positions["old"]]))
