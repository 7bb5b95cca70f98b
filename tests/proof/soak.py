"""Part 9: hours at half of the service's capacity, with rebuilds: memory stays flat, lag bounded, no request fails."""

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
from tests.proof.deployment import Deployment, clients_running, running_deployment
from tests.proof.parts import Counts, PartContext

TITLE: Final = "9 soak"

CAPACITY_MEASURED_S: Final = 5.0
REBUILDS: Final = 6
# Caches fill in this share of the run; afterwards no process may grow by more than this factor and these bytes.
WARM_UP_SHARE: Final = 0.3
GROWTH_MAX: Final = 1.15
GROWTH_MAX_BYTES: Final = 16 * 1024 * 1024
# Valkey reports some 2 MB here, and its report is exact.
VALKEY_USED_MEMORY: Final = "what valkey uses"
VALKEY_GROWTH_MAX_BYTES: Final = 2 * 1024 * 1024
LAG_MAX_EVENTS: Final = 20_000
MEASURE_EVERY_S: Final = 1.0


class ResourceMonitor:
    """The memory of the processes and the lag of the views, measured again and again."""

    def __init__(self, deployment: Deployment, began: float, lasts_s: float) -> None:
        self._deployment, self._warm_at = deployment, began + WARM_UP_SHARE * lasts_s
        self._warm: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self.lag_max = 0

    def measure(self) -> None:
        """Measure memory and lag once."""
        self._last = _memory_by_name(self._deployment)
        if monotonic() < self._warm_at:
            self._warm = {name: max(self._warm.get(name, 0), size) for name, size in self._last.items()}
        for service in self._deployment.services:
            state = httpx.get(f"{service.base_url}/health/ready", trust_env=False, timeout=30).json()
            self.lag_max = max(self.lag_max, state["details"]["lag_events"] or 0)

    def growth(self) -> list[str]:
        """Return a complaint for each process that has grown too much since the warm-up."""
        return [
            f"{name} grew from {self._warm[name]:,} to {size:,} bytes"
            for name, size in self._last.items()
            if name in self._warm and size > self._warm[name] * GROWTH_MAX + _growth_max_bytes(name)
        ]


def run(context: PartContext) -> Counts:
    """Measure the capacity, then run at half of it for long."""
    counts, lasts_s = Counts(), float(context.by_scale(8, 3_600))
    with running_deployment(context) as deployment:
        clients = deployment.clients(context.by_scale(6, 32), context, counts)
        capacity = asyncio.run(_capacity(clients, counts))
        monitor = ResourceMonitor(deployment, monotonic(), lasts_s)
        asyncio.run(_soak(deployment, clients, capacity / 2, lasts_s, monitor, counts))
        deployment.wait_caught_up()
        counts.add("seconds", int(lasts_s))
        counts.add("requests a second aimed at", int(capacity / 2))
        counts.add("events of lag at most", monitor.lag_max)
        counts.expect(monitor.lag_max <= LAG_MAX_EVENTS, f"the views were {monitor.lag_max} events behind")
        counts.wrong += monitor.growth()
        refused = counts.tried.get("requests 503", 0) + counts.tried.get("requests without an answer", 0)
        counts.expect(not refused, f"{refused} requests were refused or not answered")
        deployment.check(clients, counts)
    return counts


async def _capacity(clients: Sequence[Client], counts: Counts) -> float:
    """Return the requests per second when all clients act as fast as they can."""
    before = _answered(counts)
    async with clients_running(clients):
        await asyncio.sleep(CAPACITY_MEASURED_S)
    return (_answered(counts) - before) / CAPACITY_MEASURED_S


async def _soak(
    deployment: Deployment,
    clients: Sequence[Client],
    rate: float,
    lasts_s: float,
    monitor: ResourceMonitor,
    counts: Counts,
) -> None:
    """Let the clients act at this rate while one rebuild follows the other."""
    end, rebuild_at = monotonic() + lasts_s, monotonic()
    rebuilding: subprocess.Popen[bytes] | None = None
    async with clients_running(clients, every_s=len(clients) / rate):
        while monotonic() < end or rebuilding is not None:
            await asyncio.to_thread(monitor.measure)
            if rebuilding is not None and rebuilding.poll() is not None:
                counts.add("rebuilds")
                counts.expect(rebuilding.returncode == 0, "a rebuild failed")
                rebuilding = None
            if rebuilding is None and rebuild_at <= monotonic() < end:
                rebuilding, rebuild_at = _rebuild(deployment), monotonic() + lasts_s / REBUILDS
            await asyncio.sleep(MEASURE_EVERY_S)


def _rebuild(deployment: Deployment) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", "rebuild"]
    environment = dict(deployment.services[0].environment)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _growth_max_bytes(name: str) -> int:
    return VALKEY_GROWTH_MAX_BYTES if name == VALKEY_USED_MEMORY else GROWTH_MAX_BYTES


def _memory_by_name(deployment: Deployment) -> dict[str, int]:
    """Return the bytes of each process of the service, with its children, and of both servers.

    PostgreSQL counts without shared memory: its buffers fill up to a configured size and are resident in each backend.
    Valkey counts without the child that rewrites its file, and also by its own report. Its data may not grow either:
    views grow with users and follows, not with the log, and both stay the same here. So a generation that is never
    deleted shows, if it is large enough.
    """
    found: dict[str, int] = {}
    for number, service in enumerate(deployment.services, 1):
        for name, process in service.processes.items():
            found[f"{name} of {number}"] = sum(memory.rss for memory in _memory(process.pid))
    servers = deployment.servers
    found["postgres"] = sum(memory.rss - memory.shared for memory in _memory(servers.postgres.server.child.pid))
    found["valkey"] = psutil.Process(servers.valkey.server.child.pid).memory_info().rss
    with Redis.from_url(servers.valkey.url) as valkey:
        found[VALKEY_USED_MEMORY] = valkey.info("memory")["used_memory"]
    return found


def _memory(pid: int) -> Iterator[Any]:
    """Yield the memory of a process and of its children; one that ends meanwhile is left out."""
    parent = psutil.Process(pid)
    for member in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            yield member.memory_info()


def _answered(counts: Counts) -> int:
    return counts.tried.get("requests answered", 0)
