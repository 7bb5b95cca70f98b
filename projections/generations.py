"""Generations: which set of views readers see, and where each lane of it stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from projections.keys import POINTER, View
from projections.store import Store

# Keys looked at in one step of a removal: a fraction of a millisecond of the server's time.
DROP_STEP: Final = 500


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
    """Remove all keys of a view in small steps; give how many. Raises StoreUnavailable, and can then be called again.

    After each step the servers rest for as long as the step took, so that readers hardly notice, and a server that is
    busy is spared the more.
    """
    dropped, begun = 0, time.monotonic()
    async for keys in store.scan(view.pattern(), DROP_STEP):
        dropped += sum(await asyncio.gather(*[store.call("UNLINK", key) for key in keys]))
        await asyncio.sleep(time.monotonic() - begun)
        begun = time.monotonic()
    return dropped
