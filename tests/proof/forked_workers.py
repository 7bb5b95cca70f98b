"""A parent process that forks workers to be killed: ``python -m tests.proof.forked_workers DATABASE_URL
REDIS_URL``.

For each task on standard input it forks a child, which needs no time for imports, and prints the child's pid and, when
it has ended, its status.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys

import msgspec

from commands.db.postgres import PostgresSettings, create_engine
from projections.client.client import RedisClientSettings, open_redis
from projections.projector.projector import Projector
from tests.proof.crash_injection import BATCH_MAX, LOADED, SigkillPoint, WorkerTask, project_until
from tests.support.random_histories import VIEW


async def project(database_url: str, redis_url: str, task: WorkerTask) -> None:
    """Project as a worker does: for ever, or until the task's crash point or the end of the log."""
    engine, redis = (
        create_engine(PostgresSettings(database_url, allow_async_commit=True)),
        open_redis(RedisClientSettings(redis_url)),
    )
    if task.crash is not None:
        at, how, seed = task.crash
        await project_until(SigkillPoint(at, how, random.Random(seed)), engine, redis, task.fence)
        return
    projector = Projector(engine, redis, VIEW, dict.fromkeys(range(VIEW.partitions), task.fence))
    await projector.load()
    print(LOADED, end="", flush=True)
    while True:
        while await projector.step(BATCH_MAX):
            await projector.refresh_parked()
        await projector.write_checkpoints()
        await projector.check()
        await asyncio.sleep(0.001)


def main(database_url: str, redis_url: str) -> None:
    """Fork one child after the other."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            logging.disable()  # workers log each event that they park
            asyncio.run(project(database_url, redis_url, msgspec.json.decode(line, type=WorkerTask)))
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
