"""Part 3: API, workers, Valkey and PostgreSQL are killed at random under load over HTTP; the clients' records judge."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

import httpx
import psycopg
from redis import Redis

from tests.breakable import BreakableServers, breakable_servers, wait_until
from tests.proof.clients import Client
from tests.proof.judging import judge
from tests.proof.trial import Counts, Trial
from tests.servers import Service, running_service

TITLE: Final = "3 random kills"

PAUSE_S: Final = (0.1, 1.2)
# A process that has only just been started is no worthy victim.
GROWN_UP_S: Final = 3.0
# The views may have to be built anew after the last kill, by a worker that was just started.
HEAL_S: Final = 120.0
# What the servers' tables say against the records.
EVENTS: Final = """SELECT f.id, t.id, e.type::text FROM events e JOIN users f ON f.number = e.subject
    JOIN users t ON t.number = e.object WHERE e.subject <> e.object ORDER BY e.position"""


class World:
    """Two web processes and two workers on two servers, and how each of them is killed."""

    def __init__(self, servers: BreakableServers, services: tuple[Service, Service], chance: random.Random) -> None:
        self.servers, self.services, self._chance = servers, services, chance
        self._born: dict[str, float] = {}
        one, two = services
        self.victims = {
            "web 1": lambda: self._process(one, "web"),
            "web 2": lambda: self._process(two, "web"),
            "worker 1": lambda: self._process(one, "worker"),
            "worker 2": lambda: self._process(two, "worker-2"),
            "valkey": self._valkey,
            "postgres": servers.postgres.restart,
        }

    @property
    def ports(self) -> list[int]:
        return [int(service.base_url.rpartition(":")[2]) for service in self.services]

    def kill_one(self) -> str:
        """Kill somebody who has been up for a while, and start him again; say who it was."""
        grown = [name for name in self.victims if monotonic() - self._born.get(name, 0.0) > GROWN_UP_S]
        name = self._chance.choice(grown or ["valkey", "postgres"])
        self.victims[name]()
        self._born[name] = monotonic()
        return name.rstrip(" 12")

    def _process(self, service: Service, name: str) -> None:
        service.kill(name)
        service.start(name)

    def _valkey(self) -> None:
        """Whatever its way of keeping data; sometimes it comes back as it was long ago, or empty."""
        with Redis.from_url(self.servers.valkey.url) as client:
            choice = self._chance.random()
            if choice < 0.15:
                client.config_set("appendonly", "no")
            else:
                client.config_set("appendonly", "yes")
                client.config_set("appendfsync", self._chance.choice(["always", "everysec", "no"]))
            if choice > 0.9:
                client.flushall()
        self.servers.valkey.restart()

    def heal(self) -> None:
        """Return when everything is up and the views are level with the log."""
        self.servers.whole()
        wait_until(lambda: all(_is_level(service) for service in self.services), HEAL_S)


def _is_level(service: Service) -> bool:
    try:
        state = httpx.get(f"{service.base_url}/health/ready", trust_env=False, timeout=5).json()
    except (httpx.TransportError, ValueError):
        return False
    return bool(state["ready"] and state["lag_events"] == 0)


@contextmanager
def world(trial: Trial) -> Iterator[World]:
    """Everything started, with a key that both web processes believe."""
    first, second = trial.folder / "one", trial.folder / "two"
    first.mkdir()
    second.mkdir()
    with breakable_servers(trial.folder / "servers") as servers:
        urls = servers.postgres.url, servers.valkey.url, servers.queue_url
        with running_service(*urls, first) as one:
            keys = {"FOLLOWS_JWKS": one.environment["FOLLOWS_JWKS"]}
            with running_service(*urls, second, processes=("web", "worker-2"), environment=keys) as two:
                yield World(servers, (one, two), trial.chance("kills"))


def run(trial: Trial) -> Counts:
    """Kill and judge."""
    counts = Counts()
    with world(trial) as made:
        users = [f"user-{number}" for number in range(trial.times(8, 48))]
        _register(made, users)
        clients = [Client(user, made.services[0].token(user), made.ports, trial.chance(user), counts) for user in users]
        asyncio.run(_disturb(made, clients, users, trial.times(8, 1_000), trial.chance("pauses"), counts))
        made.heal()
        _judge(made, clients, counts, trial.again("kills"))
    return counts


def _register(made: World, users: list[str]) -> None:
    with made.services[0].client("platform", "service") as client:
        for user in users:
            assert client.put(f"/v1/users/{user}", json={}).status_code == 201


async def _disturb(
    made: World, clients: list[Client], users: list[str], kills: int, chance: random.Random, counts: Counts
) -> None:
    """Let the clients act while one after the other is killed."""
    enough = asyncio.Event()
    acting = [asyncio.create_task(client.act(users, enough)) for client in clients]
    try:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            counts.add(f"kills of {await asyncio.to_thread(made.kill_one)}")
    finally:
        enough.set()
        await asyncio.gather(*acting)


def _judge(made: World, clients: list[Client], counts: Counts, again: str) -> None:
    """The log against the records, and the views against the log."""
    events: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    with psycopg.connect(made.servers.postgres.url) as connection:
        for follower, followed, type_ in connection.execute(EVENTS):
            events[follower, followed].append(type_)
    counts.add("events in the log", sum(map(len, events.values())))
    for client in clients:
        for target, attempts in client.attempts.items():
            counts.add("commands", len(attempts))
            problem = judge(attempts, events.pop((client.user, target), []))
            counts.expect(problem is None, f"{client.user} and {target}: {problem}; {again}")
    counts.expect(not events, f"nobody sent what is in the log of {list(events)[:3]}; {again}")
    verified = _verify(made.services[0])
    counts.add("users whose views were compared with the log", len(clients))
    counts.expect(verified.returncode == 0, f"the views differ from the log: {verified.stdout[-500:]}; {again}")


def _verify(service: Service) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "verify"]
    return subprocess.run(command, env=dict(service.environment), capture_output=True, text=True, timeout=300)
