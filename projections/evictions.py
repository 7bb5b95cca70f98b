"""What is done when a server has dropped keys of its own will: its views are taken away and built anew.

Nobody who answers clients believes such a server until then (projections/guard.py).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import DecodeError
from redis.exceptions import RedisError, ResponseError

from projections import generations
from projections.guard import read_mended
from projections.keys import EVICTIONS
from projections.store import Store

logger: Final = logging.getLogger(__name__)


async def mend_evictions(store: Store) -> bool:
    """If servers have dropped keys since this was last done, take away every view that was there then, and write down
    how many keys that was; give whether it was so. Raises StoreUnavailable, also when a part of it could be done.

    First all views lose their positions, the live one before the others are looked for: should the server be started
    again then, it counts from zero, and would be believed. Next they are removed, as a full server has no room for
    others before. What is dropped while the next is built is more than was written down, and so is found by the next
    look. Who finds that another worker has written something down meanwhile leaves all as it is: what he sees may have
    been built since.
    """
    known = await _mended(store)
    counts = await _counts(store)
    now = {run: count for run, count in (known | counts).items() if count}
    if now == known:
        return False
    if any(now.get(run, 0) not in (0, known.get(run)) for run in counts):
        logger.error("Redis has dropped keys: set its maxmemory-policy to noeviction; the views are built anew")
        with suppress(DecodeError, ResponseError):
            if (live := await generations.live_view(store)) is not None and await _mended(store) == known:
                await generations.lose(store, live)
        views = await generations.found(store)
        if await _mended(store) != known:
            return False
        for view in views:
            await generations.lose(store, view)
        for view in views:
            await generations.forget(store, view)
            await generations.drop(store, view)
        if await _mended(store) != known:
            return False
    await store.call("SET", EVICTIONS, msgspec.json.encode(now))
    return True


async def _counts(store: Store) -> dict[str, int]:
    """How many keys each server with keys has dropped in its present run; without those that do not answer."""
    asked = [client.info() for client in store.known_masters()]
    counts: dict[str, int] = {}
    for info in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(info, dict):
            counts[info["run_id"]] = info["evicted_keys"]
        elif not isinstance(info, RedisError | OSError):
            raise info
    return counts


async def _mended(store: Store) -> dict[str, int]:
    try:
        return read_mended(await store.call("GET", EVICTIONS))
    except ResponseError:  # something of another type has been put there
        return {}
