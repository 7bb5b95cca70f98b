"""A parent whose children project until they are killed: ``python -m tests.proof.victim DATABASE_URL REDIS_URL``.

For each order on standard input it forks a child (which has all imports behind it), tells its pid, and how it ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys

import msgspec

from commands import log
from commands.postgres import PostgresSettings, create_engine
from projections.catch_up import Projector
from projections.store import StoreSettings, open_store
from tests.projections.histories import VIEW
from tests.proof.killing import LIMIT, LOADED, Order, RealDeath, work_until


async def project(database_url: str, redis_url: str, order: Order) -> None:
    """As a worker does, for ever, or until the death that was ordered or the end of the log."""
    engine, store = create_engine(PostgresSettings(database_url)), open_store(StoreSettings(redis_url))
    epoch = (await log.head(engine)).epoch
    if order.death is not None:
        at, how, seed = order.death
        await work_until(RealDeath(at, how, random.Random(seed)), engine, epoch, store, order.fence)
        return
    projector = Projector(engine, store, VIEW, dict.fromkeys(range(VIEW.lanes), order.fence), epoch)
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
            asyncio.run(project(database_url, redis_url, msgspec.json.decode(line, type=Order)))
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
