"""What all simulated processes of a schedule share: time, chance, the network, and what was found wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from projections.client.client import RedisClient
from tests.proof.fake_log import FakeLog
from tests.proof.fake_network import FakeLogConnection, FakeRedisClient, NetworkFaults, SimulatedProcess
from tests.proof.fake_redis import FakeRedis
from tests.proof.simulated_web import SimulatedWeb
from tests.proof.virtual_time import VirtualTimeLoop

# Virtual seconds: a loop's pause without work, and far more than the views need to catch up.
IDLE_S: Final = 0.15
CATCH_UP_TIMEOUT_S: Final = 60.0


class SimulatedWorld:
    """Everything here is decided by the seed."""

    def __init__(self, seed: int) -> None:
        self.loop, self.rng = VirtualTimeLoop(), random.Random(seed)
        self.network = NetworkFaults(self.rng)
        self.wrong: list[str] = []
        self.tally = {"batches applied": 0, "faults": 0, "reads": 0, "own writes answered": 0, "own reads answered": 0}
        self.webs: list[SimulatedWeb] = []
        # By database and Redis: the latest worker, which has the leases, and the task that builds a view.
        self.owners: dict[tuple[FakeLog, FakeRedis], object] = {}
        self.builders: dict[tuple[FakeLog, FakeRedis], asyncio.Task[Any]] = {}

    def start_web(self, log: FakeLog, store: FakeRedis) -> SimulatedWeb:
        """Return a web process. Its tail is not started yet."""
        process = SimulatedProcess()
        log_connection = FakeLogConnection(log, self.network, process)
        return SimulatedWeb(process, self.redis_client(store, process), log_connection, self.loop.time)

    def redis_client(self, store: FakeRedis, process: SimulatedProcess) -> RedisClient:
        """Return a process's connection to a Redis."""
        return cast(RedisClient, FakeRedisClient(store, self.network, process, self.loop, self._applied))

    def _applied(self, checkpoint: str, expected: Any, new: Any) -> None:
        self.tally["batches applied"] += 1
        if int(new) < int(expected):
            self.wrong.append(f"{checkpoint} goes back from {expected} to {new}")

    async def publish(self, _: object, messages: Sequence[bytes]) -> bool:
        """Send messages to the web processes, of all copies of the log; each may miss them, or get them late."""
        for web in self.webs:
            for message in messages:
                if not self.network.loses():
                    self.loop.call_later(self.network.delay_s(), web.on_message, message)
        return True

    def send(self, _: int) -> None:
        """Wake no worker: those here look for themselves."""

    async def until(self, condition: Callable[[], bool], timeout_s: float = CATCH_UP_TIMEOUT_S) -> bool:
        """Wait for the condition; return False if it does not come true in time."""
        end = self.loop.time() + timeout_s
        while not condition() and self.loop.time() < end:  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(IDLE_S)
        return condition()
