"""One process of a parallel rebuild: ``python -m projections.rebuild.filler TASK`` fills some partitions and ends."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

from commands.db.postgres import PostgresSettings, create_engine
from commands.errors import FollowsError
from commands.logs import log_to_stderr
from commands.process import name_process
from projections.client.client import RedisClientSettings, open_redis
from projections.projector.projector import Projector
from projections.rebuild.build import fill
from projections.rebuild.pace import BuildProgress
from projections.rebuild.parallel import FillTask


async def fill_share(task: FillTask) -> None:
    """Fill the task's partitions up to the end of the log; exit with an error when the parent process is gone."""
    filling = asyncio.create_task(_fill(task))
    parent = asyncio.create_task(_wait_for_parents_end())
    await asyncio.wait({filling, parent}, return_when=asyncio.FIRST_COMPLETED)
    parent.cancel()
    filling.cancel()
    await asyncio.wait({filling})
    if filling.cancelled():
        sys.exit("error: the rebuild that started this process is gone")
    filling.result()


async def _fill(task: FillTask) -> None:
    engine, redis = create_engine(PostgresSettings.from_env(), is_tool=True), open_redis(RedisClientSettings.from_env())
    try:
        partitions = range(task.index, task.view.partitions, task.count)
        fences = dict.fromkeys(partitions, task.fence)
        projector = Projector(engine, redis, task.view, fences)
        await projector.load()
        await fill(engine, redis, projector, _after_batch, rate=task.rate)
    finally:
        await redis.close()
        await engine.dispose()


async def _after_batch(_: BuildProgress) -> None:
    """Let other tasks run. The parent holds the build lease; if it loses that, its successor's fence stops this."""
    await asyncio.sleep(0)


async def _wait_for_parents_end() -> None:
    """Return when the pipe from the parent has closed."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    name_process("filler")
    log_to_stderr("WARNING")
    try:
        uvloop.run(fill_share(msgspec.json.decode(sys.argv[1], type=FillTask)))
    except FollowsError as error:
        sys.exit(f"error: {error.message}")
