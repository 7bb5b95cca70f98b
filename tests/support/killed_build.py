"""Builds that end themselves by SIGKILL: ``python -m tests.support.killed_build DATABASE_URL REDIS_URL``.

For each line ``STEP FENCE`` on standard input it forks a build of the prepared generation KILLED, which sends itself
SIGKILL before its script call of that number, counted from 0, and prints its status as ``waitpid`` has it: 0 if it has
finished.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from commands.db.postgres import PostgresSettings, create_engine
from projections.client.client import RedisClientSettings, Script, open_redis
from projections.keys import View
from projections.rebuild.limits import SnapshotLimits
from tests.support.intercepted_redis import Proceed, intercepted
from tests.support.snapshots import filled

KILLED: Final = View(3, 4)
BATCH: Final = 50
# Each list is a part of its own.
LIMITS: Final = SnapshotLimits(part_bytes=1)


class KilledBuilds:
    """The parent of these processes."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def kill_at(self, step: int, fence: int) -> int:
        """Return the status of a build that kills itself at this step."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(step, fence, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def killed_builds(database_url: str, redis_url: str, temporary: str) -> Iterator[KilledBuilds]:
    """Yield builds on these servers, with this folder for temporary files."""
    command = [sys.executable, "-m", "tests.support.killed_build", database_url, redis_url]
    environment = {**os.environ, "TMPDIR": temporary}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield KilledBuilds(process)


async def _build(database_url: str, redis_url: str, step: int, fence: int) -> None:
    engine = create_engine(PostgresSettings(database_url, allow_async_commit=True))
    redis, left = open_redis(RedisClientSettings(redis_url)), step

    async def on_run(_: Script, __: Sequence[str], ___: Sequence[Any], proceed: Proceed) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return await proceed()

    await filled(engine, intercepted(redis, on_run), KILLED, fence=fence, batch=BATCH, limits=LIMITS)
    await redis.close()
    await engine.dispose()


def _main() -> None:
    for line in sys.stdin:
        step, fence = map(int, line.split())
        child = os.fork()
        if not child:
            asyncio.run(_build(sys.argv[1], sys.argv[2], step, fence))
            os._exit(0)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    _main()
