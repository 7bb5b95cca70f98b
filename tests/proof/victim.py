"""A parent whose children project until they are killed: ``python -m tests.proof.victim DATABASE_URL REDIS_URL``.

For each fence on standard input it forks a child (which has all imports behind it), tells its pid, and how it ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from commands import log
from commands.postgres import PostgresSettings, create_engine
from projections.catch_up import Projector
from projections.store import StoreSettings, open_store
from tests.projections.histories import VIEW
from tests.proof.killing import LIMIT, LOADED


async def project(database_url: str, redis_url: str, fence: int) -> None:
    """As a worker does, for ever."""
    engine, store = create_engine(PostgresSettings(database_url)), open_store(StoreSettings(redis_url))
    epoch = (await log.head(engine)).epoch
    projector = Projector(engine, store, VIEW, dict.fromkeys(range(VIEW.lanes), fence), epoch)
    await projector.load()
    print(LOADED, end="", flush=True)
    while True:
        while await projector.step(LIMIT):
            await projector.refresh_parked()
        await projector.settle()
        await projector.check()
        await asyncio.sleep(0.001)


def main(database_url: str, redis_url: str) -> None:
    """One child after the other."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            logging.disable()  # parked events are what the trial is about
            asyncio.run(project(database_url, redis_url, int(line)))
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
