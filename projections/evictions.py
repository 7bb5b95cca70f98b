"""What is done when a server has dropped keys of its own will: its views are taken away and built anew.

Nobody who answers clients believes such a server until then (projections/guard.py).
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError, ResponseError

from projections import generations
from projections.guard import read_mended
from projections.keys import EVICTIONS
from projections.store import Store, translated

logger: Final = logging.getLogger(__name__)

# Under such a policy only keys that end anyway are dropped, and the views have none.
_SPARES_VIEWS: Final = "volatile-"


async def mend_evictions(store: Store) -> bool:
    """If servers have dropped keys since this was last done, take away every view that was there then, and write down
    how many keys that was; give whether it was so. Raises StoreUnavailable.

    The views are removed first, as a full server has no room for others before. What is dropped while the next is built
    is more than was written down, and so is found by the next look.
    """
    counts, spared = await _counts(store)
    known = await _mended(store)
    now = {run: count for run, count in (known | counts).items() if count}
    if now == known:
        return False
    if any(now.get(run) != known.get(run) and run not in spared for run in now):
        logger.error("Redis has dropped keys: set its maxmemory-policy to noeviction; the views are built anew")
        views = await generations.found(store)
        if await _mended(store) == now:
            return False  # another worker was faster, and what was found may be what has been built since
        for view in views:
            await generations.forget(store, view)
            await generations.drop(store, view)
    await store.call("SET", EVICTIONS, msgspec.json.encode(now))
    return True


async def _counts(store: Store) -> tuple[dict[str, int], set[str]]:
    """How many keys each server with keys has dropped in its present run; and the runs whose policy spares views."""
    counts, spared = dict[str, int](), set[str]()
    for client in await store.masters():
        try:
            info: dict[str, Any] = await client.info()
        except (RedisError, OSError) as error:
            raise translated(error) from None
        counts[info["run_id"]] = info["evicted_keys"]
        if info["maxmemory_policy"].startswith(_SPARES_VIEWS):
            spared.add(info["run_id"])
    return counts, spared


async def _mended(store: Store) -> dict[str, int]:
    try:
        return read_mended(await store.call("GET", EVICTIONS))
    except ResponseError:  # something of another type has been put there
        return {}
