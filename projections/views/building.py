"""What a generation under construction notes beside its checkpoints: the end of its snapshot, and how far that is."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from projections.client.client import RedisClient
from projections.keys import View
from projections.views.generations import view_position


async def snapshot_end(redis: RedisClient, view: View, partitions: Collection[int]) -> tuple[int, int] | None:
    """Return the ``upto`` that ``prepare`` wrote to these partitions; None without one, or where they differ."""
    found = set(await asyncio.gather(*[redis.call("HGET", view.checkpoint(one), "upto") for one in partitions]))
    if len(found) != 1 or None in found:
        return None
    position, _, word = found.pop().partition(b":")
    return int(position), int(word)


async def build_position(redis: RedisClient, view: View) -> int | None:
    """Return how far a build is, as a position of the log: that of ``view_position``, or of the snapshot under way."""
    position, built = await asyncio.gather(view_position(redis, view), redis.call("HGET", view.checkpoint(0), "built"))
    return position or (None if position is None else int(built or 0))
