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
from projections.filling import Share
from projections.store import StoreSettings, open_store


async def main(share: Share) -> None:
    """Fill the share's lanes up to the log's end, or until the parent is gone."""
    filling = asyncio.create_task(_fill(share))
    parent = asyncio.create_task(_parent_gone())
    await asyncio.wait({filling, parent}, return_when=asyncio.FIRST_COMPLETED)
    parent.cancel()
    filling.cancel()
    await asyncio.wait({filling})
    if filling.cancelled():
        sys.exit("error: the rebuild that started this process is gone")
    filling.result()


async def _fill(share: Share) -> None:
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
    """The parent holds the right to build; should it lose that, a successor's fence stops us."""
    await asyncio.sleep(0)


async def _parent_gone() -> None:
    """Returns when the pipe that the parent holds has closed."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s %(message)s")
    try:
        uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Share)))
    except FollowsError as error:
        sys.exit(f"error: {error.message}")
