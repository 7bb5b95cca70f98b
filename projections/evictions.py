"""Keys that Redis drops of its own will, when somebody has set another maxmemory-policy than the one it must have: a
list that was dropped looks like an empty one, so no view that was there then can be believed."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

import msgspec
from redis.exceptions import RedisError

from projections import generations
from projections.keys import EVICTIONS
from projections.store import Store

logger: Final = logging.getLogger(__name__)

_known: Final = msgspec.json.Decoder(dict[str, int])


async def look_for_evictions(store: Store) -> bool:
    """Take every view from its readers when a server has dropped keys since anybody looked last: they get 503 until one
    has been built anew. Whether one has; raises StoreUnavailable.

    How many each has dropped is kept beside the views. A server is named by its run, since it counts from 0 again when
    it is started. One that is away is passed by.
    """
    counts: dict[str, int] = {}
    for client in await store.nodes():
        with suppress(RedisError, OSError):
            info = {**await client.info("server"), **await client.info("stats")}
            counts[info["run_id"]] = info["evicted_keys"]
    kept: bytes | None = await store.call("GET", EVICTIONS)
    known = {} if kept is None else _known.decode(kept)
    dropped = any(count > known.get(run, 0) for run, count in counts.items())
    if dropped:
        logger.error("Redis has dropped keys: set its maxmemory-policy to noeviction; the views are built anew")
        await generations.forget(store)
        for view in await generations.found(store):
            await generations.lose(store, view)
        await store.call("SET", EVICTIONS, msgspec.json.encode(known | counts))
    return dropped
