"""The live view as a worker knows it, also for a while in which the pointer's server does not answer."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from commands.errors import ViewsUnavailable
from projections.client.client import RedisClient
from projections.keys import FEEDER, POINTER, View
from projections.views.generations import Live, decode_pointer

# In a cluster the pointer's server may be away while the others answer: their partitions are still projected. So a
# read of the pointer must not wait for long, and a failed one is not repeated before POINTER_RETRY_S.
POINTER_TIMEOUT_S: Final = 0.2
POINTER_RETRY_S: Final = 1.0


async def read_live(redis: RedisClient) -> tuple[Live | None, bytes | None]:
    """Read the pointer and the feeder's record at one moment."""
    pointer, record = await redis.call("MGET", POINTER, FEEDER)
    return decode_pointer(pointer), record


class LivePointer:
    """Reads the pointer and the feeder's record, and remembers them as they were last read."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._last: View | None = None
        # The feeder's record, as it was last read, and the generation that the live view replaces.
        self.record: bytes | None = None
        self.replaces = 0
        self._retry_at = 0.0

    async def view(self) -> View | None:
        """Return the live view, or the one last read while the pointer cannot be read. None when there is none.

        Raises ViewsUnavailable when none was read before. A view that is no longer live takes nothing, since its
        partitions are retired; so projecting into the one last read does no harm.
        """
        if not await self._read() and self._last is None:
            raise ViewsUnavailable
        return self._last

    async def is_live(self, view: View) -> bool | None:
        """Return whether ``view`` is live, and fed as when it was read; None while the pointer cannot be read."""
        record = self.record
        return self._last == view and self.record == record if await self._read() else None

    async def _read(self) -> bool:
        if time.monotonic() < self._retry_at:
            return False
        try:
            async with asyncio.timeout(POINTER_TIMEOUT_S if self._last else None):
                found, self.record = await read_live(self._redis)
        except (ViewsUnavailable, TimeoutError):
            self._retry_at = time.monotonic() + POINTER_RETRY_S
            return False
        self._last, self.replaces = (None, 0) if found is None else (found.view, found.replaces)
        return True
