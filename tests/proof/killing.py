"""Three ways to kill a projector: by an exception at a chosen step of its loop, to the last await; by a SIGKILL that a
real process sends itself there, which leaves no time for a ``finally``; or by one at an instant by chance."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal, cast
from unittest.mock import patch
from uuid import UUID

import msgspec

from commands.postgres import Engine
from projections.catch_up import Projector
from projections.store import Store
from tests.projections.histories import VIEW, Killed, World
from tests.projections.test_catch_up_faults import STEPS

# Before the step, after it, or (of what was sent in the same turn) some with effect and some without.
How = Literal["before", "after", "torn"]
HOWS: Final[tuple[How, ...]] = ("before", "after", "torn")
LIMIT: Final = 5
# What a victim says when it knows where the lanes stand.
LOADED: Final = "loaded\n"


class Death:
    """Counts what a projector does outside of its process, and kills it at the so-manieth such step."""

    def __init__(self, at: int, how: How, chance: random.Random) -> None:
        self._left, self._how, self._chance = at, how, chance
        self.came = False

    async def meet(self, step: Any, arguments: Any, options: Any) -> Any:
        """Do the step, or die before or after it; once dead, nothing is done any more."""
        if self.came and not self._torn():
            raise Killed
        self._left -= 1
        if self._left >= 0:
            return await step(*arguments, **options)
        first, self.came = not self.came, True
        if (first and self._how == "after") or self._torn():
            await step(*arguments, **options)
        raise Killed

    def _torn(self) -> bool:
        return self._how == "torn" and self._chance.random() < 0.5


class RealDeath(Death):
    """The same for a process of its own: what raises there sends a SIGKILL here."""

    def __init__(self, at: int, how: How, chance: random.Random) -> None:
        super().__init__(at, how, chance)
        self._under_way = 0

    async def meet(self, step: Any, arguments: Any, options: Any) -> Any:
        """Do the step, or die before or after it; of a torn turn, when that which has effect has been answered."""
        self._under_way += 1
        try:
            return await super().meet(step, arguments, options)
        except Killed:
            if self._how != "torn":
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(0)  # until the others of this turn have begun, or have not
        finally:
            self._under_way -= 1
            if self.came and not self._under_way:
                os.kill(os.getpid(), signal.SIGKILL)
        return await asyncio.Future()  # nothing is done any more


class Mortal:
    """A store whose scripts may be the last that its owner sends."""

    def __init__(self, store: Store, death: Death) -> None:
        self._store, self._death = store, death

    async def run(self, *arguments: Any, **options: Any) -> Any:
        """Run the script, or die."""
        return await self._death.meet(self._store.run, arguments, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def work(engine: Engine, epoch: UUID, store: Store, fence: int) -> None:
    """What a worker does with small batches until nothing is left, or he dies."""
    projector = Projector(engine, store, VIEW, dict.fromkeys(range(VIEW.lanes), fence), epoch)
    try:
        await projector.load()
        while await projector.step(LIMIT):
            await projector.refresh_parked()
        await projector.settle()
        await projector.check()
    finally:
        await projector.close()


async def killed(world: World, death: Death, fence: int) -> bool:
    """Let a worker meet his death; whether it came before he was done."""
    try:
        await work_until(death, world.engine, world.epoch, world.store, fence)
    except Killed:
        return True
    return False


async def work_until(death: Death, engine: Engine, epoch: UUID, store: Store, fence: int) -> None:
    """Work to the end, or to this death."""
    with _watched(death):
        await work(engine, epoch, cast(Store, Mortal(store, death)), fence)


@contextmanager
def _watched(death: Death) -> Iterator[None]:
    """Every read and write of the projector's that is no script goes by ``death``."""

    def watched(real: Any) -> Any:
        async def step(*arguments: Any, **options: Any) -> Any:
            return await death.meet(real, arguments, options)

        return step

    with ExitStack() as stack:
        for place, name in STEPS.values():
            stack.enter_context(patch.object(place, name, watched(getattr(place, name))))
        yield


class Order(msgspec.Struct):
    """How a victim lives: for ever under this fence, or until a death whose chances are of this seed."""

    fence: int
    death: tuple[int, How, str] | None = None


class Victims:
    """Real processes that project, one after the other, for as long as they live; use ``with``."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.victim", database_url, redis_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Victims:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.stdout.close()
        self._parent.wait()

    def kill_one(self, fence: int, seconds: float, *, loaded: bool) -> int:
        """A new one works under this fence and is killed so long after its birth, or after it has ``loaded`` where the
        lanes stand; the signal that it died of."""
        pid = self._begin(Order(fence))
        assert self._parent.stdout is not None
        if loaded:
            assert self._parent.stdout.readline() == LOADED
        time.sleep(seconds)  # the instant is the seed's, not a condition's
        os.kill(pid, signal.SIGKILL)
        while (word := self._parent.stdout.readline()) == LOADED:
            pass
        return os.WTERMSIG(int(word))

    def kill_one_at(self, fence: int, at: int, how: How, seed: str) -> int:
        """A new one works under this fence until it kills itself at this step; how it ended, as ``waitpid`` says: 0
        when it was done before."""
        self._begin(Order(fence, (at, how, seed)))
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())

    def _begin(self, order: Order) -> int:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        print(msgspec.json.encode(order).decode(), file=self._parent.stdin, flush=True)
        return int(self._parent.stdout.readline())
