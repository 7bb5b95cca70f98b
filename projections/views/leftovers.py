"""What generations have left in a Redis."""

from __future__ import annotations

from contextlib import suppress

from projections.client.client import RedisClient
from projections.keys import ANY_CHECKPOINT, View, place_of_checkpoint
from projections.views.generations import DELETE_STEP


async def leftovers(redis: RedisClient) -> list[View]:
    """Return the generations that have a checkpoint in Redis, whether the register knows them or not."""
    partitions: dict[int, int] = {}
    async for keys in redis.scan(ANY_CHECKPOINT, DELETE_STEP):
        for key in keys:
            with suppress(ValueError):  # another program's key
                generation, partition = place_of_checkpoint(key.decode())
                partitions[generation] = max(partitions.get(generation, 0), partition + 1)
    return [View(generation, count) for generation, count in sorted(partitions.items())]
