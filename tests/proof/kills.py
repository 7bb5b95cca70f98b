"""Part 3: web processes, workers, Valkey and PostgreSQL killed at random while clients write; their records decide."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from redis import Redis

from tests.proof.clients import Client
from tests.proof.deployment import PROCESSES, Deployment, clients_running, running_deployment
from tests.proof.parts import Counts, PartContext
from tests.support.breakable_servers import wait_until
from tests.support.prometheus import Prometheus, installed_prometheus, running_prometheus
from tests.support.scraped import metrics_settings
from tests.support.servers import Service

TITLE: Final = "3 random kills"

# Between kills there is time to work; in the long form a thousand kills are about two million events.
PAUSE_S: Final = {"short": (0.5, 3.5), "long": (1.5, 5.0)}
# Kills at least, and events appended at least, by the clients' answers: a run ends when it has both.
KILLS: Final = (6, 1_000)
EVENTS: Final = (1, 2_000_000)
# A process that has only just started has nothing under way: it is not killed before this age.
AGE_MIN_S: Final = 3.0
# Valkey's appendfsync; "off" means without an AOF, so Valkey restarts with what it had at its last start.
APPENDFSYNC: Final = ("always", "everysec", "no", "off")
EMPTIED_SHARE: Final = 0.1
SCRAPE_MS: Final = {"short": 200, "long": 1_000}


class Killer:
    """Kills and restarts one process or server after the other."""

    def __init__(self, deployment: Deployment, rng: random.Random, counts: Counts) -> None:
        self._deployment, self._rng, self._counts = deployment, rng, counts
        self._appendfsync = "everysec"
        self._started_at: dict[str, float] = {}
        one, two = deployment.services
        # Process or server -> how often it was killed.
        self.kills = Counter[str]()
        self._restarts: dict[str, Callable[[], None]] = {
            "web": lambda: _restart(one, "web"),
            "web-2": lambda: _restart(two, "web-2"),
            "worker": lambda: _restart(one, "worker"),
            "worker-2": lambda: _restart(two, "worker-2"),
            "valkey": self._restart_valkey,
            "postgres": deployment.servers.postgres.restart,
        }

    def kill(self) -> str:
        """Kill one process or server at random, restart it, and return its name."""
        old = [name for name in self._restarts if time.monotonic() - self._started_at.get(name, 0.0) > AGE_MIN_S]
        name = self._rng.choice(old or ["valkey", "postgres"])
        self._restarts[name]()
        self._started_at[name] = time.monotonic()
        self.kills[name] += 1
        return name.removesuffix("-2")

    def _restart_valkey(self) -> None:
        """Kill Valkey, sometimes after emptying it, and choose how it writes its AOF until the next kill."""
        with Redis.from_url(self._deployment.servers.valkey.url) as client:
            if self._rng.random() < EMPTIED_SHARE:
                client.flushall()
                self._counts.add("Valkey emptied")
        self._counts.add(f"Valkey killed with its file: {self._appendfsync}")
        self._deployment.servers.valkey.restart()
        self._appendfsync = self._rng.choice(APPENDFSYNC)
        with Redis.from_url(self._deployment.servers.valkey.url) as client:
            if self._appendfsync == "off":
                client.config_set("appendonly", "no")
            else:
                client.config_set("appendfsync", self._appendfsync)


def run(context: PartContext) -> Counts:
    """Kill while clients write, wait until the views have caught up, and check."""
    counts, own, began = Counts(), metrics_settings(PROCESSES), time.monotonic()
    with running_deployment(context, own) as deployment, _scraped(context, own) as prometheus:
        clients = deployment.clients(context.by_scale(8, 128), context, counts)
        killer = Killer(deployment, context.rng("kills"), counts)
        asyncio.run(_attack(killer, clients, context, counts))
        deployment.wait_caught_up()
        deployment.check(clients, counts)
        if prometheus is not None:
            _check_metrics(prometheus, killer, int(time.monotonic() - began) + 1, counts)
    return counts


@contextmanager
def _scraped(context: PartContext, own: Mapping[str, Mapping[str, str]]) -> Iterator[Prometheus | None]:
    """Let a Prometheus scrape all processes meanwhile, where one is installed."""
    program = installed_prometheus()
    if program is None:
        yield None
        return
    with running_prometheus(program, context.folder / "prometheus", own, SCRAPE_MS[context.scale]) as prometheus:
        yield prometheus


def _check_metrics(prometheus: Prometheus, killer: Killer, seconds: int, counts: Counts) -> None:
    """Expect that all processes say they are ready, and that no count went back but when its process was killed."""
    wait_until(lambda: prometheus.value("count(follows_process_ready == 1)") == len(PROCESSES))
    for counter in prometheus.counters():
        counts.add("counters scraped by Prometheus")
        for name, resets in prometheus.resets(counter, seconds).items():
            often = f"{counter} of {name} went back {resets} times, and it was killed {killer.kills[name]} times"
            counts.expect(resets <= killer.kills[name], often)


async def _attack(killer: Killer, clients: list[Client], context: PartContext, counts: Counts) -> None:
    """Let the clients act while one process after the other is killed."""
    rng = context.rng("pauses")
    async with clients_running(clients):
        kills, events = context.by_scale(*KILLS), context.by_scale(*EVENTS)
        ends_at = time.monotonic() + 60 * context.minutes
        while not counts.wrong and time.monotonic() < ends_at:
            if kills <= 0 and sum(client.appended for client in clients) >= events:
                break
            kills -= 1
            await asyncio.sleep(rng.uniform(*PAUSE_S[context.scale]))
            counts.add(f"kills of {await asyncio.to_thread(killer.kill)}")


def _restart(service: Service, name: str) -> None:
    service.kill(name)
    service.start(name)
