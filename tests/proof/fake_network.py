"""The simulated connections between processes and servers: messages are slow, lost or late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from redis.exceptions import ResponseError

from commands.errors import LogUnavailable, ViewsUnavailable
from projections.client.client import Script, ScriptCall
from projections.projector.apply import APPLY
from tests.proof.fake_log import FakeLog
from tests.proof.virtual_time import VirtualTimeLoop
from tests.support.intercepted_redis import one_by_one
from tests.support.packed_commands import unpacked

_T = TypeVar("_T")
DELAY_MAX_S: Final = 0.02
# A command that was sent before its connection broke can still arrive after later commands of the same process.
LATE_ARRIVAL_MAX_S: Final = 0.5


class RedisCommands(Protocol):
    """Commands on the keys of a server: the fake one, or in a replay a real one."""

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any: ...

    def execute(self, name: str, key: str, *values: Any) -> Any: ...


class NetworkFaults:
    """How slow the network is and how much it loses, drawn at random for a schedule."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.loss_rate = rng.choice((0.0, 0.01, 0.05, 0.15))
        # Server restarts so far; a command that was sent before the last one is not answered.
        self.restarts = 0
        # Until when the log is away (virtual seconds), and whether it refuses queries then or does not answer them.
        self.log_away_until, self.log_refuses = 0.0, False
        self.delay_max_s = DELAY_MAX_S * rng.choice((0.1, 1.0, 5.0))

    def delay_s(self) -> float:
        """Draw the delay of one message."""
        return self.rng.random() * self.delay_max_s

    def loses(self) -> bool:
        """Draw whether one message is lost."""
        return self.rng.random() < self.loss_rate


class SimulatedProcess:
    """A process that can be stopped for a while, as by SIGSTOP; answers to it wait until it continues."""

    def __init__(self) -> None:
        self.stopped_until = 0.0
        # Until when it alone cannot reach the log.
        self.cut_off_until = 0.0


class FakeLogConnection:
    """A process's connection to the log."""

    def __init__(self, log: FakeLog, network: NetworkFaults, process: SimulatedProcess) -> None:
        self.log, self._network, self._process = log, network, process

    async def query(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` on the log, with delays before and after. Raises LogUnavailable whether or not it has run."""
        await asyncio.sleep(self._network.delay_s())
        away_s = self._network.log_away_until - asyncio.get_running_loop().time()
        if away_s > 0 and not self._network.log_refuses:
            await asyncio.sleep(away_s)
        is_cut_off = self._process.cut_off_until > asyncio.get_running_loop().time()
        if away_s > 0 or is_cut_off or self._network.loses():
            raise LogUnavailable
        result = work()
        self.log.answered_at = asyncio.get_running_loop().time()
        await asyncio.sleep(self._network.delay_s())
        late = self._process.stopped_until - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)
        if self._network.loses():
            raise LogUnavailable
        return result


class FakeRedisClient:
    """A process's connection to the views, with the methods of ``RedisClient`` that the projector and readers use."""

    clustered = False

    def __init__(
        self,
        keys: RedisCommands,
        network: NetworkFaults,
        process: SimulatedProcess,
        loop: VirtualTimeLoop,
        seen: Callable[[str, Any, Any], None],
    ) -> None:
        """``seen`` gets the checkpoint key, expected and new position of each applied batch."""
        self._keys, self._network, self._process, self._loop, self._seen = keys, network, process, loop, seen

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send one command."""
        return self._send([lambda: self._keys.execute(*command)], lambda answers: answers[0])

    def batch(self, commands: Sequence[tuple[Any, ...]]) -> asyncio.Future[list[Any]]:
        """Send several commands; those of other processes may run between them."""
        return self._send([partial(self._keys.execute, *command) for command in commands], list)

    def batch_packed(self, packed: bytes, replies: int) -> asyncio.Future[list[Any]]:
        """Send several commands that are spelled already."""
        return self.batch(unpacked(packed))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script in one step."""

        def work() -> Any:
            answer = self._keys.run(script, keys, arguments)
            if script is APPLY and answer[0] == b"OK":
                self._seen(keys[0], arguments[0], arguments[1])
            return answer

        return await self._send([work], lambda answers: answers[0])

    async def run_each(self, script: Script, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run the calls in a step each, as on a cluster: a batch may be applied to some partitions only."""
        return await one_by_one(self.run, script, calls)

    def _send(self, steps: Sequence[Callable[[], Any]], read: Callable[[list[Any]], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        network, answers, restarts = self._network, list[Any](), self._network.restarts
        arrives, lost = network.delay_s(), network.loses()
        kind = network.rng.choice(("never arrives", "answer lost", "late")) if lost else ""
        if lost:
            self._loop.call_later(arrives + network.delay_s(), self._answer, future, ViewsUnavailable())
            if kind == "late":
                arrives += network.rng.random() * LATE_ARRIVAL_MAX_S

        def execute(at: int) -> None:
            """Run this step and those that follow without a pause, then send the answer."""
            if at and restarts != network.restarts:
                self._answer(future, ViewsUnavailable())
                return
            while True:
                try:
                    answers.append(steps[at]())
                except ResponseError as error:
                    answers.append(error)
                at += 1
                if at == len(steps):
                    break
                if network.rng.random() < 0.1:
                    self._loop.call_later(network.delay_s(), execute, at)
                    return
            if not lost:
                fault = next((answer for answer in answers if isinstance(answer, Exception)), None)
                self._loop.call_later(network.delay_s(), self._answer, future, fault or read(answers))

        if kind != "never arrives":
            self._loop.call_later(arrives, execute, 0)
        return future

    def _answer(self, future: asyncio.Future[Any], answer: Any) -> None:
        if self._process.stopped_until > self._loop.time():
            self._loop.call_at(self._process.stopped_until, self._answer, future, answer)
        elif future.done():
            pass
        elif isinstance(answer, Exception):
            future.set_exception(answer)
            future.exception()  # its caller may be gone
        else:
            future.set_result(answer)
