"""Three ways to kill a projector: by an exception at a chosen step of its loop; by a SIGKILL that a real process sends
itself at that step, after which no ``finally`` runs; or by a SIGKILL at a random time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, cast
from unittest.mock import patch

import msgspec

from commands.db.postgres import Engine
from projections.client.client import RedisClient, Script, ScriptCall
from projections.projector.projector import Projector
from tests.support.intercepted_redis import Killed, one_by_one
from tests.support.projector_steps import STEPS
from tests.support.random_histories import VIEW, World

# Before the step, after it, or "torn": of the commands sent in the same loop turn some take effect and some do not.
How = Literal["before", "after", "torn"]
HOWS: Final[tuple[How, ...]] = ("before", "after", "torn")
BATCH_MAX: Final = 5
# A forked worker prints this when it has read the checkpoints.
LOADED: Final = "loaded\n"


class CrashPoint:
    """Counts the calls of a projector to its servers, and kills it at a chosen one of these steps."""

    def __init__(self, at: int, how: How, rng: random.Random) -> None:
        self._left, self._how, self._rng = at, how, rng
        self.reached = False

    async def step(self, step: Any, arguments: Any, options: Any) -> Any:
        """Do the step, or raise Killed before or after it; every later step raises, too."""
        if self.reached and not self._torn():
            raise Killed
        self._left -= 1
        if self._left >= 0:
            return await step(*arguments, **options)
        first, self.reached = not self.reached, True
        if (first and self._how == "after") or self._torn():
            await step(*arguments, **options)
        raise Killed

    def _torn(self) -> bool:
        return self._how == "torn" and self._rng.random() < 0.5


class SigkillPoint(CrashPoint):
    """A CrashPoint that sends SIGKILL to its own process where CrashPoint raises."""

    def __init__(self, at: int, how: How, rng: random.Random) -> None:
        super().__init__(at, how, rng)
        self._under_way = 0

    async def step(self, step: Any, arguments: Any, options: Any) -> Any:
        """Do the step, or die before or after it; in a torn turn, after the steps that take effect are answered."""
        self._under_way += 1
        try:
            return await super().step(step, arguments, options)
        except Killed:
            if self._how != "torn":
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(0)  # let the other steps of this turn begin
        finally:
            self._under_way -= 1
            if self.reached and not self._under_way:
                os.kill(os.getpid(), signal.SIGKILL)
        return await asyncio.Future()  # wait for the SIGKILL


class CrashingRedis:
    """A Redis client whose scripts count as steps of a crash point."""

    def __init__(self, redis: RedisClient, crash_point: CrashPoint) -> None:
        self._redis, self._crash_point = redis, crash_point

    async def run(self, *arguments: Any, **options: Any) -> Any:
        """Run the script, or crash."""
        return await self._crash_point.step(self._redis.run, arguments, options)

    async def run_each(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run the calls one by one, as for a cluster: there, too, a batch may be applied to some partitions only."""
        return await one_by_one(self.run, script, calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


async def project_all(engine: Engine, redis: RedisClient, fence: int) -> None:
    """Project the whole log in small batches, as a worker does."""
    projector = Projector(engine, redis, VIEW, dict.fromkeys(range(VIEW.partitions), fence))
    try:
        await projector.load()
        while await projector.step(BATCH_MAX):
            await projector.refresh_parked()
        await projector.write_checkpoints()
        await projector.check()
    finally:
        await projector.close()


async def crashes(world: World, crash_point: CrashPoint, fence: int) -> bool:
    """Run a worker with this crash point; return False if it finished before it came there."""
    try:
        await project_until(crash_point, world.engine, world.redis, fence)
    except Killed:
        return True
    return False


async def project_until(crash_point: CrashPoint, engine: Engine, redis: RedisClient, fence: int) -> None:
    """Project the whole log, or up to the crash point."""
    with _watched(crash_point):
        await project_all(engine, cast(RedisClient, CrashingRedis(redis, crash_point)), fence)


@contextmanager
def _watched(crash_point: CrashPoint) -> Iterator[None]:
    """Make every call of the projector to its servers that is not a script a step of the crash point."""

    def watched(real: Any) -> Any:
        async def step(*arguments: Any, **options: Any) -> Any:
            return await crash_point.step(real, arguments, options)

        return step

    with ExitStack() as stack:
        for place, name in STEPS.values():
            stack.enter_context(patch.object(place, name, watched(getattr(place, name))))
        yield


class WorkerTask(msgspec.Struct):
    """The task of a forked worker: project under this fence, for ever or until a crash point (step, how, seed)."""

    fence: int
    crash: tuple[int, How, str] | None = None


class ForkedWorkers:
    """Real processes that project, one after the other, each until it is killed. Use it in a ``with`` block."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.forked_workers", database_url, redis_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> ForkedWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.stdout.close()
        self._parent.wait()

    def kill_one(self, fence: int, seconds: float, *, loaded: bool) -> int:
        """Start a worker, kill it after some time, counted from its start or (``loaded``) from when it has read the
        checkpoints, and return the signal that ended it."""
        pid = self._begin(WorkerTask(fence))
        assert self._parent.stdout is not None
        if loaded:
            assert self._parent.stdout.readline() == LOADED
        time.sleep(seconds)  # a random time, drawn from the seed
        os.kill(pid, signal.SIGKILL)
        while (line := self._parent.stdout.readline()) == LOADED:
            pass
        return os.WTERMSIG(int(line))

    def kill_one_at(self, fence: int, at: int, how: How, seed: str) -> int:
        """Start a worker that kills itself at this step; return its status as ``waitpid`` does, 0 if it finished."""
        self._begin(WorkerTask(fence, (at, how, seed)))
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())

    def _begin(self, task: WorkerTask) -> int:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        print(msgspec.json.encode(task).decode(), file=self._parent.stdin, flush=True)
        return int(self._parent.stdout.readline())
