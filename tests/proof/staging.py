"""The whole service for the proof: two web processes and two workers on servers that can be broken, and a judge."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

import httpx
import psycopg

from tests.breakable import BreakableServers, breakable_servers, wait_until
from tests.proof.clients import Client
from tests.proof.judging import judge
from tests.proof.lists import lists
from tests.proof.trial import Counts, Trial
from tests.servers import Service, running_service

# The views may have to be built anew after the last fault, by a worker that was just started.
HEAL_S: Final = 120.0
# The whole log is folded for that, and a long run's has millions of events.
VERIFY_S: Final = 1_800.0
# Under load the views are level when they are as close behind as this.
CLOSE: Final = 500
# What the servers' tables say against the records.
EVENTS: Final = """SELECT f.id, t.id, e.type::text FROM events e JOIN users f ON f.number = e.subject
    JOIN users t ON t.number = e.object WHERE e.subject <> e.object ORDER BY e.position"""


@dataclass(frozen=True)
class World:
    """Two services, each a web process and a worker, on the same two servers."""

    servers: BreakableServers
    services: tuple[Service, Service]

    @property
    def ports(self) -> list[int]:
        """Where the web processes listen."""
        return [int(service.base_url.rpartition(":")[2]) for service in self.services]

    def clients(self, count: int, trial: Trial, counts: Counts) -> list[Client]:
        """So many users whom the directory knows, as clients."""
        users = [f"user-{number}" for number in range(count)]
        with self.services[0].client("platform", "service") as platform:
            for user in users:
                assert platform.put(f"/v1/users/{user}", json={}).status_code == 201
        tokens = [self.services[0].token(user, scopes=("user_follows_edit",)) for user in users]
        return [
            Client(user, token, self.ports, trial.chance(user), counts, users)
            for user, token in zip(users, tokens, strict=True)
        ]

    def reads_go_on(self, seconds: float) -> int:
        """Somebody who has written nothing reads for so long, and is answered; how often."""
        answered, end = 0, monotonic() + seconds
        with self.services[0].client("onlooker", "guest") as onlooker:
            while monotonic() < end:
                answer = onlooker.get("/v1/users/user-1/followers")
                assert answer.status_code == 200, answer.text
                answered += 1
        return answered

    def heal(self, behind: int = 0) -> None:
        """Return when everything is up and the views are level with the log, or so many events behind at most."""
        self.servers.whole()
        wait_until(lambda: all(_is_level(service, behind) for service in self.services), HEAL_S)

    def judge(self, clients: Sequence[Client], counts: Counts, again: str) -> None:
        """The log against the clients' records; the views against the log, by tool and by list."""
        events: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        with psycopg.connect(self.servers.postgres.url) as connection:
            for follower, followed, type_ in connection.execute(EVENTS):
                events[follower, followed].append(type_)
        counts.add("events in the log", sum(map(len, events.values())))
        follows = {pair for pair, types in events.items() if types[-1] == "UserFollowed"}
        for client in clients:
            for target, attempts in client.attempts.items():
                counts.add("commands", len(attempts))
                problem = judge(attempts, events.pop((client.user, target), []))
                counts.expect(problem is None, f"{client.user} and {target}: {problem}; {again}")
        counts.expect(not events, f"nobody sent what is in the log of {list(events)[:3]}; {again}")
        with self.services[0].client("onlooker", "guest") as onlooker:
            for client in clients:
                followers = {follower for follower, followed in follows if followed == client.user}
                following = {followed for follower, followed in follows if follower == client.user}
                for (path, rows, total), wanted in zip(
                    lists(onlooker, client.user), (followers, following) * 2, strict=True
                ):
                    counts.add("lists compared with the log")
                    right = sorted(rows) == sorted(wanted) and total == len(wanted)
                    counts.expect(right, f"{path} is not what the log says; {again}")
        counts.add("users whose views were compared with the log", len(clients))
        counts.expect(self.views_are_the_log(), f"the views differ from the log; {again}")

    def views_are_the_log(self) -> bool:
        """Whether every list is what the log says; if not, it is printed."""
        verified = _verify(self.services[0])
        if verified.returncode:
            print(verified.stdout)
        return verified.returncode == 0


@asynccontextmanager
async def acting(clients: Sequence[Client], *, every_s: float = 0.0) -> AsyncIterator[None]:
    """The clients begin and end follows until the block ends, each one every so often or as fast as it goes."""
    enough = asyncio.Event()
    tasks = [asyncio.create_task(client.act(enough, every_s=every_s)) for client in clients]
    try:
        yield
    finally:
        enough.set()
        await asyncio.gather(*tasks)


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
                yield World(servers, (one, two))


def _is_level(service: Service, behind: int) -> bool:
    try:
        state = httpx.get(f"{service.base_url}/health/ready", trust_env=False, timeout=5).json()
    except (httpx.TransportError, ValueError):
        return False
    lag = state["lag_events"]  # None while a web process has not seen Postgres come back
    return bool(state["ready"] and lag is not None and lag <= behind)


def _verify(service: Service) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "verify"]
    return subprocess.run(command, env=dict(service.environment), capture_output=True, text=True, timeout=VERIFY_S)
