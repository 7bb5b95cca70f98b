"""Freezes: a switch or a repair keeps a partition where it is, by a token on the partition's checkpoint.

A process that was killed or stopped leaves its token behind. No server's clock decides when the freeze ends: a process
that meets the same token for two seconds of its own clock breaks the freeze. Before that it raises the pointer's fence,
so that a stopped switch is refused. A repair writes only under its own token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from commands.coordination import leases
from commands.db.postgres import Engine
from projections.client.client import RedisClient, load_script
from projections.errors import ViewLost
from projections.keys import POINTER, View

logger: Final = logging.getLogger(__name__)

FREEZE: Final = load_script("projections.views", "freeze.lua", reads=False)
UNFREEZE: Final = load_script("projections.views", "unfreeze.lua", reads=False)
FENCE_POINTER: Final = load_script("projections.views", "fence_pointer.lua", reads=False)

# A repair freezes a partition for some milliseconds, a switch for less than a second.
FREEZE_MAX_S: Final = 2.0
FROZEN_RETRY_S: Final = 0.02


class Frozen(NamedTuple):
    """The position and the fence of a partition that this process has frozen."""

    position: int
    fence: int


class Freezes:
    """Freezes partitions, and waits for the freezes of other processes, those of killed ones at most FREEZE_MAX_S."""

    def __init__(
        self,
        engine: Engine,
        redis: RedisClient,
        *,
        max_s: float = FREEZE_MAX_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """``clock`` is monotonic, by default that of the event loop."""
        self._engine, self._redis, self._max_s, self._clock = engine, redis, max_s, clock
        # Checkpoint -> the token that was met there, and since when.
        self._met: dict[str, tuple[bytes, float]] = {}
        # The token of the last freeze that a log line says was broken: a switch freezes all partitions with one.
        self._logged = b""
        # How many freezes this process has broken.
        self.broken = 0

    async def freeze(self, view: View, partition: int, token: str) -> Frozen:
        """Freeze a partition, once no other process has frozen it; raises ViewLost when it is lost."""
        checkpoint = view.checkpoint(partition)
        while True:
            answer = await self._redis.run(FREEZE, [checkpoint], [token])
            if answer is None:
                raise ViewLost(view, partition)
            if answer[0] == 1:
                return Frozen(int(answer[1]), int(answer[2]))
            await self.wait(checkpoint, answer[1])

    async def unfreeze(self, view: View, partition: int, token: str) -> None:
        """Unfreeze a partition, if it is still frozen with this token."""
        await self._redis.run(UNFREEZE, [view.checkpoint(partition)], [token])

    async def wait(self, checkpoint: str, token: bytes) -> None:
        """Wait for a moment, as ``token`` has frozen a partition; break the freeze if it was met there for too long."""
        now = asyncio.get_running_loop().time() if self._clock is None else self._clock()
        known, since = self._met.get(checkpoint, (b"", now))
        if known != token:
            self._met[checkpoint] = token, now
        elif now - since >= self._max_s:
            await self._break(checkpoint, token)
            return
        await asyncio.sleep(FROZEN_RETRY_S)

    async def _break(self, checkpoint: str, token: bytes) -> None:
        """Fence off the switch that may have frozen the partition, then unfreeze it."""
        await self._redis.run(FENCE_POINTER, [POINTER], [await leases.next_fence(self._engine)])
        self.broken += 1
        if await self._redis.run(UNFREEZE, [checkpoint], [token]) and token != self._logged:
            self._logged = token
            logger.warning("%s was frozen for %g s by a process that has ended or stopped", checkpoint, self._max_s)
