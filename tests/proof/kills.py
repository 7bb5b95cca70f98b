"""Part 3: API, workers, Valkey and PostgreSQL are killed at random under load over HTTP; the clients' records judge."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from time import monotonic
from typing import Final

from redis import Redis

from tests.proof.clients import Client
from tests.proof.staging import World, acting, world
from tests.proof.trial import Counts, Trial
from tests.servers import Service

TITLE: Final = "3 random kills"

# So long that there is work to kill; in the long form, that a thousand kills are about two million events.
PAUSE_S: Final = {"short": (0.5, 3.5), "long": (1.5, 5.0)}
# So many at least, and until so many events have gone in, as far as the clients were told.
KILLS: Final = (6, 1_000)
EVENTS: Final = (1, 2_000_000)
# A process that has only just been started is no worthy victim.
GROWN_UP_S: Final = 3.0
# How Valkey keeps what it is told; with "off" it comes back as it was when it was started last.
KEEPING: Final = ("always", "everysec", "no", "off")
EMPTIED: Final = 0.1


class Killer:
    """Kills one after the other, each time somebody who has been up for a while."""

    def __init__(self, made: World, chance: random.Random, counts: Counts) -> None:
        self._made, self._chance, self._counts = made, chance, counts
        self._keeping = "everysec"
        self._born: dict[str, float] = {}
        one, two = made.services
        self._victims: dict[str, Callable[[], None]] = {
            "web 1": lambda: _again(one, "web"),
            "web 2": lambda: _again(two, "web"),
            "worker 1": lambda: _again(one, "worker"),
            "worker 2": lambda: _again(two, "worker-2"),
            "valkey": self._valkey,
            "postgres": made.servers.postgres.restart,
        }

    def kill(self) -> str:
        """Kill somebody and start him again; say who it was."""
        grown = [name for name in self._victims if monotonic() - self._born.get(name, 0.0) > GROWN_UP_S]
        name = self._chance.choice(grown or ["valkey", "postgres"])
        self._victims[name]()
        self._born[name] = monotonic()
        return name.rstrip(" 12")

    def _valkey(self) -> None:
        """Whatever its way of keeping data, under which it has lived since it was killed last; some lose all first."""
        with Redis.from_url(self._made.servers.valkey.url) as client:
            if self._chance.random() < EMPTIED:
                client.flushall()
                self._counts.add("Valkey emptied")
        self._counts.add(f"Valkey killed with its file: {self._keeping}")
        self._made.servers.valkey.restart()
        self._keeping = self._chance.choice(KEEPING)
        with Redis.from_url(self._made.servers.valkey.url) as client:
            if self._keeping == "off":
                client.config_set("appendonly", "no")
            else:
                client.config_set("appendfsync", self._keeping)


def run(trial: Trial) -> Counts:
    """Kill and judge."""
    counts = Counts()
    with world(trial) as made:
        clients = made.clients(trial.times(8, 128), trial, counts)
        asyncio.run(_disturb(made, clients, trial, counts))
        made.heal()
        made.judge(clients, counts, trial.again("kills"))
    return counts


async def _disturb(made: World, clients: list[Client], trial: Trial, counts: Counts) -> None:
    """Let the clients act while one after the other is killed."""
    killer, chance = Killer(made, trial.chance("kills"), counts), trial.chance("pauses")
    async with acting(clients):
        kills, events = trial.times(*KILLS), trial.times(*EVENTS)
        while not counts.wrong and (kills > 0 or sum(client.went_in for client in clients) < events):
            kills -= 1
            await asyncio.sleep(chance.uniform(*PAUSE_S[trial.scale]))
            counts.add(f"kills of {await asyncio.to_thread(killer.kill)}")


def _again(service: Service, name: str) -> None:
    service.kill(name)
    service.start(name)
