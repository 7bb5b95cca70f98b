"""One process' share of a rebuild: ``python -m projections.filler SHARE`` fills some lanes of a generation and ends."""

from __future__ import annotations

import asyncio
import logging
import sys

import msgspec
import uvloop

from commands import log
from commands.errors import FollowsError
from commands.postgres import PostgresSettings, create_engine
from projections.building import Progress, fill
from projections.catch_up import Projector
from projections.rebuilding import Share
from projections.store import StoreSettings, open_store


async def main(share: Share) -> None:
    """Fill the share's lanes up to the log's end."""
    engine, store = create_engine(PostgresSettings.from_env()), open_store(StoreSettings.from_env())
    try:
        lanes = range(share.index, share.view.lanes, share.count)
        fences = dict.fromkeys(lanes, share.fence)
        projector = Projector(engine, store, share.view, fences, (await log.head(engine)).epoch)
        await projector.load()
        await fill(engine, store, projector, _go_on, rate=share.rate)
    finally:
        await store.close()
        await engine.dispose()


async def _go_on(_: Progress) -> None:
    """The parent holds the lease; if it dies, a successor's fence stops us."""
    await asyncio.sleep(0)


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s %(message)s")
    try:
        uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Share)))
    except FollowsError as error:
        sys.exit(f"error: {error.message}")
