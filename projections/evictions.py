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

from commands.generations import registered
from commands.postgres import Engine
from projections import generations
from projections.guard import read_mended
from projections.keys import EVICTIONS, View
from projections.store import Store

logger: Final = logging.getLogger(__name__)

# A server that does not answer for so long is passed by until the next look.
TELL_S: Final = 1.0


async def mend_evictions(engine: Engine, store: Store) -> bool:
    """If servers have dropped keys since this was last done, take away every view that was there then, and write down
    how many keys that was; give whether it was so. Raises Unavailable, also when a part of it could be done.

    The live view goes first: should the server be started again in the middle, it counts from zero and is believed.
    What is left of the views is removed before the next is built (``heal``). What is dropped from now on is more than
    was written down, and so is found by the next look. Who finds that another worker has written something down
    meanwhile leaves it at that: what he sees may have been built since.
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
                await generations.forget(store, live)
        views = [View(row.number, row.lanes) for row in await registered(engine)]
        if await _mended(store) != known:
            return False
        await asyncio.gather(*[generations.lose(store, view) for view in views])
    if await _mended(store) != known:
        return False
    await store.call("SET", EVICTIONS, msgspec.json.encode(now))
    return True


async def _counts(store: Store) -> dict[str, int]:
    """How many keys each server with keys has dropped in its present run; without those that do not answer."""
    asked = [asyncio.wait_for(client.info(), TELL_S) for client in store.known_masters()]
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
