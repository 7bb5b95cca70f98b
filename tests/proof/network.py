"""The ways between the simulation's processes and its servers, on which things are slow, lost or late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from redis.exceptions import ResponseError

from commands.errors import LogUnavailable, StoreUnavailable
from projections.catch_up import APPLY
from projections.store import Script
from tests.proof.chronicle import Chronicle
from tests.proof.virtual import VirtualLoop

T = TypeVar("T")
SLOW_S: Final = 0.02
# What was sent before a connection broke can still arrive when its owner has long sent something else.
LATE_S: Final = 0.5


class Keys(Protocol):
    """A server's keys: the simulation's own, or those of a real server in a replay."""

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any: ...

    def execute(self, name: str, key: str, *values: Any) -> Any: ...


class Weather:
    """How bad it is, by chance: how slow the ways are, and how many of those who take them come to grief."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.trouble = chance.choice((0.0, 0.01, 0.05, 0.15))
        # Of the server's connections; in a new one nothing of the old ones is answered.
        self.era = 0
        self.slow_s = SLOW_S * chance.choice((0.1, 1.0, 5.0))

    def way(self) -> float:
        """How long one way takes."""
        return self.chance.random() * self.slow_s

    def grief(self) -> bool:
        """Whether this one is lost."""
        return self.chance.random() < self.trouble


class Owner:
    """A process, which can be stopped for a while: what comes for it waits until then."""

    def __init__(self) -> None:
        self.stopped_until = 0.0


class Desk:
    """A process's way to the log."""

    def __init__(self, chronicle: Chronicle, weather: Weather, owner: Owner) -> None:
        self.chronicle, self._weather, self._owner = chronicle, weather, owner

    async def ask(self, work: Callable[[], T]) -> T:
        """Ask; the answer is of a moment before it comes. Raises LogUnavailable, and the work was done or not."""
        await asyncio.sleep(self._weather.way())
        if self._weather.grief():
            raise LogUnavailable
        result = work()
        await asyncio.sleep(self._weather.way())
        late = self._owner.stopped_until - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)
        if self._weather.grief():
            raise LogUnavailable
        return result


class Line:
    """A process's way to the views: has of ``Store`` what the projector and the readers use."""

    clustered = False

    def __init__(
        self, keys: Keys, weather: Weather, owner: Owner, loop: VirtualLoop, seen: Callable[[str, Any, Any], None]
    ) -> None:
        """``seen`` is told of each batch that was applied: its lane's checkpoint, expected and new position."""
        self._keys, self._weather, self._owner, self._loop, self._seen = keys, weather, owner, loop, seen

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """One command."""
        return self._send([lambda: self._keys.execute(*command)], lambda answers: answers[0])

    def batch(self, commands: Sequence[tuple[Any, ...]]) -> asyncio.Future[list[Any]]:
        """Several, between which others may come."""
        return self._send([partial(self._keys.execute, *command) for command in commands], list)

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """A script, in one step."""

        def work() -> Any:
            answer = self._keys.run(script, keys, arguments)
            if script is APPLY and answer[0] == b"OK":
                self._seen(keys[0], arguments[0], arguments[1])
            return answer

        return await self._send([work], lambda answers: answers[0])

    def _send(self, steps: Sequence[Callable[[], Any]], read: Callable[[list[Any]], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        weather, answers, era = self._weather, list[Any](), self._weather.era
        arrives, lost = weather.way(), weather.grief()
        kind = weather.chance.choice(("never arrives", "answer lost", "late")) if lost else ""
        if lost:
            self._loop.call_later(arrives + weather.way(), self._answer, future, StoreUnavailable())
            if kind == "late":
                arrives += weather.chance.random() * LATE_S

        def take(at: int) -> None:
            """This step and those that come right behind it; then the answer goes back."""
            if at and era != weather.era:
                self._answer(future, StoreUnavailable())
                return
            while True:
                try:
                    answers.append(steps[at]())
                except ResponseError as error:
                    answers.append(error)
                at += 1
                if at == len(steps):
                    break
                if weather.chance.random() < 0.1:
                    self._loop.call_later(weather.way(), take, at)
                    return
            if not lost:
                fault = next((answer for answer in answers if isinstance(answer, Exception)), None)
                self._loop.call_later(weather.way(), self._answer, future, fault or read(answers))

        if kind != "never arrives":
            self._loop.call_later(arrives, take, 0)
        return future

    def _answer(self, future: asyncio.Future[Any], answer: Any) -> None:
        if self._owner.stopped_until > self._loop.time():
            self._loop.call_at(self._owner.stopped_until, self._answer, future, answer)
        elif future.done():
            pass
        elif isinstance(answer, Exception):
            future.set_exception(answer)
            future.exception()  # perhaps nobody waits any more
        else:
            future.set_result(answer)
