"""Part 9: hours at half of what the service can do, with rebuilds going on: memory flat, lag bounded, no error."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import httpx
import psutil
from redis import Redis

from tests.proof.clients import Client
from tests.proof.staging import World, acting, world
from tests.proof.trial import Counts, Trial

TITLE: Final = "9 soak"

MEASURED_S: Final = 5.0
REBUILDS: Final = 6
# In the first part caches fill; from then on no process may grow by more than this.
WARM: Final = 0.3
GROWTH_MAX: Final = 1.15
SPARE_BYTES: Final = 16 * 1024 * 1024
# By its own account Valkey uses some 2 MB here, and that account is exact.
VALKEY_USES: Final = "what valkey uses"
VALKEY_SPARE_BYTES: Final = 2 * 1024 * 1024
LAG_EVENTS_MAX: Final = 20_000
LOOK_S: Final = 1.0


class Watch:
    """What the processes weigh and how far the views are behind, again and again."""

    def __init__(self, made: World, began: float, lasts_s: float) -> None:
        self._made, self._warm_at = made, began + WARM * lasts_s
        self._warm: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self.lag_max = 0

    def look(self) -> None:
        """Take the weights, and the lag."""
        self._last = _weights(self._made)
        if monotonic() < self._warm_at:
            self._warm = {name: max(self._warm.get(name, 0), size) for name, size in self._last.items()}
        for service in self._made.services:
            state = httpx.get(f"{service.base_url}/health/ready", trust_env=False, timeout=30).json()
            self.lag_max = max(self.lag_max, state["lag_events"])

    def grown(self) -> list[str]:
        """Who weighs more at the end than he may."""
        return [
            f"{name} grew from {self._warm[name]:,} to {size:,} bytes"
            for name, size in self._last.items()
            if name in self._warm and size > self._warm[name] * GROWTH_MAX + _spare(name)
        ]


def run(trial: Trial) -> Counts:
    """Measure what it can do, then let it do half of that for long."""
    counts, lasts_s = Counts(), float(trial.times(8, 3_600))
    with world(trial) as made:
        clients = made.clients(trial.times(6, 32), trial, counts)
        capacity = asyncio.run(_capacity(clients, counts))
        watch = Watch(made, monotonic(), lasts_s)
        asyncio.run(_soak(made, clients, capacity / 2, lasts_s, watch, counts))
        made.heal()
        counts.add("seconds", int(lasts_s))
        counts.add("requests a second aimed at", int(capacity / 2))
        counts.add("events of lag at most", watch.lag_max)
        counts.expect(watch.lag_max <= LAG_EVENTS_MAX, f"the views were {watch.lag_max} events behind")
        counts.wrong += watch.grown()
        refused = counts.tried.get("requests 503", 0) + counts.tried.get("requests without an answer", 0)
        counts.expect(not refused, f"{refused} requests were refused or not answered")
        made.judge(clients, counts, trial.again("soak"))
    return counts


async def _capacity(clients: Sequence[Client], counts: Counts) -> float:
    """Requests a second when all clients go as fast as they can."""
    before = _answered(counts)
    async with acting(clients):
        await asyncio.sleep(MEASURED_S)
    return (_answered(counts) - before) / MEASURED_S


async def _soak(
    made: World, clients: Sequence[Client], rate: float, lasts_s: float, watch: Watch, counts: Counts
) -> None:
    """Let the clients act at that rate while one rebuild follows the other."""
    end, rebuild_at = monotonic() + lasts_s, monotonic()
    rebuilding: subprocess.Popen[bytes] | None = None
    async with acting(clients, every_s=len(clients) / rate):
        while monotonic() < end or rebuilding is not None:
            await asyncio.to_thread(watch.look)
            if rebuilding is not None and rebuilding.poll() is not None:
                counts.add("rebuilds")
                counts.expect(rebuilding.returncode == 0, "a rebuild failed")
                rebuilding = None
            if rebuilding is None and rebuild_at <= monotonic() < end:
                rebuilding, rebuild_at = _rebuild(made), monotonic() + lasts_s / REBUILDS
            await asyncio.sleep(LOOK_S)


def _rebuild(made: World) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", "rebuild"]
    environment = dict(made.services[0].environment)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _spare(name: str) -> int:
    return VALKEY_SPARE_BYTES if name == VALKEY_USES else SPARE_BYTES


def _weights(made: World) -> dict[str, int]:
    """Bytes of each process of the service, with those that it has started, and of both servers.

    PostgreSQL is weighed by what its processes have for themselves, since its shared buffers fill up to a size that is
    set and are part of each backend's resident bytes. Valkey is weighed without the child that writes its file anew,
    and by its own account, too. Nothing is taken off for its data: views grow with users and the follows that there
    are, not with the log, and here these are as many at the end as at the beginning; so a generation that nobody
    removes is seen, if it is large enough.
    """
    found: dict[str, int] = {}
    for number, service in enumerate(made.services, 1):
        for name, process in service.processes.items():
            found[f"{name} of {number}"] = sum(memory.rss for memory in _memory(process.pid))
    servers = made.servers
    found["postgres"] = sum(memory.rss - memory.shared for memory in _memory(servers.postgres.server.child.pid))
    found["valkey"] = psutil.Process(servers.valkey.server.child.pid).memory_info().rss
    with Redis.from_url(servers.valkey.url) as valkey:
        found[VALKEY_USES] = valkey.info("memory")["used_memory"]
    return found


def _memory(pid: int) -> Iterator[Any]:
    """What each process of a family has; one that ends meanwhile has nothing."""
    parent = psutil.Process(pid)
    for member in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            yield member.memory_info()


def _answered(counts: Counts) -> int:
    return counts.tried.get("requests answered", 0)
