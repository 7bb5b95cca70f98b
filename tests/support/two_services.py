"""Two services on servers that a test may break, with a network of its own for each process, and their callers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from redis import Redis

from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.network import Network, network_to, redis_socket
from tests.support.resetting_server import ResettingServer, resetting_server
from tests.support.servers import Service, running_service

NOWHERE: Final = "/nowhere.sock"
# The first web process does not count requests, and the second one has a limit that no test reaches.
LIMITS: Final = ("0", "100000")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Caller:
    """A user who calls either web process, number 0 or 1, with a token or without."""

    id: str
    headers: dict[str, str]
    webs: tuple[httpx.Client, ...]

    def call(self, method: str, path: str, at: int = 0, **arguments: Any) -> httpx.Response:
        """Send a request to a web process."""
        return self.webs[at].request(method, path, headers=self.headers, **arguments)

    def follow(self, other: Caller, at: int = 0) -> int:
        """Follow another user; return the status."""
        return self.call("POST", f"/v1/users/{other.id}/follow", at).status_code

    def sees(self, other: Caller, at: int = 0) -> bool | int:
        """Return whether the caller follows another user, as the caller reads it, or the status if that is not 200."""
        answer = self.call("GET", f"/v1/users/{other.id}/follow-status", at)
        return bool(answer.json()["is_following"]) if answer.status_code == 200 else answer.status_code

    def sees_at_last(self, other: Caller, at: int = 0) -> bool | int:
        """Return the first of those that is not 503."""
        seen: list[bool | int] = []

        def is_answered() -> bool:
            seen.append(self.sees(other, at))
            return seen[-1] != 503

        wait_until(is_answered)
        return seen[-1]


@dataclass(frozen=True)
class TwoServices:
    """Two web and two worker processes; ``networks`` has that of each process by its name and its service's number."""

    servers: BreakableServers
    services: tuple[Service, Service]
    networks: dict[tuple[str, int], Network]
    queue: ResettingServer
    webs: tuple[httpx.Client, ...]

    def caller(self, id_: str, role: str = "user") -> Caller:
        """Return a caller with a token."""
        return Caller(id_, {"Authorization": f"Bearer {self.services[0].token(id_, role)}"}, self.webs)

    def people(self, count: int) -> list[Caller]:
        """Register users. The first follows the second, and both web processes show it."""
        made = [self.caller(f"row-{next(_numbers)}") for _ in range(count)]
        platform = self.caller("platform", "service")
        assert {platform.call("PUT", f"/v1/users/{one.id}", json={}).status_code for one in made} == {201}
        assert made[0].follow(made[1]) == 201
        assert [made[0].sees_at_last(made[1], at) for at in (0, 1)] == [True, True]
        return made

    def list_without_token(self, user: Caller, at: int = 0) -> int:
        """Read the followers of a user without a token; return the status."""
        return self.webs[at].get(f"/kraken/channels/{user.id}/follows").status_code

    def health(self, at: int = 0) -> dict[str, Any]:
        """Return what /health/ready says."""
        said: dict[str, Any] = self.webs[at].get("/health/ready").json()
        return said

    def tool(self, *words: str) -> str:
        """Run a command of the command line, and return what it prints. It names the servers as the workers do."""
        environment = {**self.services[0].environment, **self.services[0].own["worker"]}
        command = [sys.executable, "-m", "cli", *words]
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def wait_level(self) -> None:
        """Return when both web processes are ready and the views show all that is in the log."""

        def is_level(at: int) -> bool:
            said = self.health(at)
            return bool(said["reads"] and said["writes"] and said["details"]["lag_events"] == 0)

        self.servers.wait_ready()
        for at in (0, 1):
            wait_until(lambda at=at: is_level(at))  # type: ignore[misc]

    def is_up(self, at: int) -> bool:
        """Return whether a web process answers."""
        try:
            return self.webs[at].get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def without_postgres(self, at: int) -> _Cut:
        """Refuse every connection of a web process to Postgres for the length of the block."""
        return _Cut([self.networks["web", at].postgres])

    def without_redis(self, at: int) -> _Cut:
        """Refuse every connection of a web process to Redis for the length of the block."""
        return _Cut([self.networks["web", at].redis])

    def without_queue(self) -> _Cut:
        """Refuse every connection to the queue for the length of the block."""
        return _Cut([self.queue])


class _Cut:
    """Leads networks to nowhere, and back."""

    def __init__(self, networks: list[ResettingServer]) -> None:
        self._networks = [(network, network.path) for network in networks]

    def __enter__(self) -> None:
        for network, _ in self._networks:
            network.redirect(NOWHERE)

    def __exit__(self, *_: object) -> None:
        for network, path in self._networks:
            network.redirect(path)


def number_of(sql: psycopg.Connection[Any], user: Caller) -> int:
    """Return a user's number in the log."""
    [(number,)] = sql.execute("SELECT number FROM users WHERE id = %s", [user.id]).fetchall()
    return int(number)


@contextmanager
def two_services(servers: BreakableServers, folder: Path) -> Iterator[TwoServices]:
    """Yield both services, ready, on a Redis that is empty before and afterwards.

    They reach Postgres by addresses of their own, so its views are not for processes that name it otherwise.
    """
    with ExitStack() as stack:
        plain = stack.enter_context(Redis.from_url(servers.valkey.url))
        plain.flushall()
        stack.callback(plain.flushall)
        queue = stack.enter_context(resetting_server(redis_socket(servers.valkey.url), real=True))
        queue.forward()
        networks: dict[tuple[str, int], Network] = {}
        services: list[Service] = []
        jwks: dict[str, str] = {}
        for number in (0, 1):
            own = {}
            for name in ("web", "worker"):
                network = networks[name, number] = stack.enter_context(network_to(servers))
                own[name] = network.environment(servers.postgres.url)
                own[name]["QUEUE_URL"] = f"redis://127.0.0.1:{queue.port}/1"
            own["web"]["FOLLOWS_RATE_LIMIT"] = LIMITS[number]
            place = folder / str(number)
            place.mkdir()
            urls = servers.postgres.url, servers.valkey.url, servers.queue_url
            services.append(stack.enter_context(running_service(*urls, place, environment=jwks, own=own)))
            jwks = {"FOLLOWS_JWKS": services[0].environment["FOLLOWS_JWKS"]}
        webs = tuple(
            stack.enter_context(httpx.Client(base_url=service.base_url, trust_env=False, timeout=30))
            for service in services
        )
        yield TwoServices(servers, (services[0], services[1]), networks, queue, webs)
