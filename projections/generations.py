"""Generations: which set of views readers see, and where each lane of it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

import msgspec

from projections.keys import POINTER, View
from projections.store import Store


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a lane stands: the last log position in it, the highest fence seen, which log it was, and when the event
    at that position was recorded (us; 0 when not noted), by which a log restored to an older state is noticed."""

    position: int
    fence: int
    epoch: str
    stamp: int = 0


async def live_view(store: Store) -> View | None:
    """The view that readers are to see, or None when there is none (yet, or any more)."""
    raw = await store.call("GET", POINTER)
    return None if raw is None else msgspec.json.decode(raw, type=View)


async def switch(store: Store, view: View) -> None:
    """Make readers see ``view`` from now on, in one atomic step."""
    await store.call("SET", POINTER, msgspec.json.encode(view))


async def forget(store: Store) -> None:
    """Let readers see no view at all: they get 503 until one has been built."""
    await store.call("DEL", POINTER)


async def checkpoints(store: Store, view: View, lanes: Iterable[int]) -> dict[int, Checkpoint | None]:
    """Read where these lanes stand; None for a lane whose checkpoint is missing, which means that it is lost."""
    wanted = list(lanes)
    rows = await asyncio.gather(
        *[store.call("HMGET", view.checkpoint(lane), "position", "fence", "epoch", "stamp") for lane in wanted]
    )
    return {
        lane: None if row[0] is None else Checkpoint(int(row[0]), int(row[1]), row[2].decode(), int(row[3] or 0))
        for lane, row in zip(wanted, rows, strict=True)
    }


async def prepare(store: Store, view: View, epoch: UUID, fence: int) -> None:
    """Give every lane of a new, empty view its first checkpoint, at position 0."""
    await asyncio.gather(
        *[
            store.call("HSET", view.checkpoint(lane), "position", 0, "fence", fence, "epoch", str(epoch))
            for lane in range(view.lanes)
        ]
    )


async def drop(store: Store, view: View) -> int:
    """Remove all keys of a view in small steps, so that nobody waits for it; give how many."""
    dropped = 0
    async for key in store.client.scan_iter(match=view.pattern(), count=500):
        dropped += await store.call("UNLINK", key)
    return dropped
