"""Faults of the part `outages`: a copy of the database uses the same Redis; a second Redis is fed and moved to."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import psycopg

from tests.proof.absences import Fault, Readers
from tests.proof.deployment import verify
from tests.proof.failovers import start_redis
from tests.proof.outage_world import TOOLS, WEBS, WORKERS, World
from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.network import network_to, redis_socket
from tests.support.servers import Service, free_port

COPY: Final = "copied"
# What a worker says that finds another database's views.
REFUSED: Final = "follows adopt"
LEVEL_TIMEOUT_S: Final = 120.0


def copy_of_the_database(world: World, _: random.Random) -> Iterator[Readers]:
    """A worker on a copy of the database waits at the same Redis, before and after the two logs have differed."""
    _copy_database(world)
    with _more_processes(world, world.servers, COPY) as copied:
        copied.start("worker")
        wait_until(lambda: REFUSED in copied.logs())
        for name in WORKERS:  # now the copy's worker is the only one
            world.service(name).kill(name)
        for name in WORKERS:
            world.service(name).start(name)
        yield WEBS
        copied.start("web")
        wait_until(lambda: _is_live(copied))
        _follow_in_copy(copied, world)
        before = copied.logs().count(REFUSED)
        copied.kill("worker")
        copied.start("worker")
        wait_until(lambda: copied.logs().count(REFUSED) > before)
        _follow_in_copy(copied, world)
    with _administrator(world) as connection:
        connection.execute(f"DROP DATABASE {COPY} WITH (FORCE)".encode())


def second_redis(world: World, _: random.Random) -> Iterator[Readers]:
    """A second Redis is fed beside the first, the web processes move to it one by one, then the workers."""
    first = world.servers
    second = BreakableServers(first.postgres, start_redis(world, "second"), "")
    with _more_processes(world, second, "follows") as feeding:
        feeding.start("worker")
        wait_until(lambda: verify(feeding).returncode == 0, LEVEL_TIMEOUT_S)
        yield WEBS
        path = redis_socket(second.valkey.url)
        for name in (*WEBS, *WORKERS):
            world.service(name).stop(name)
            world.networks[name].redis.redirect(path)
            world.service(name).start(name)
            world.service(name).wait_ready()
        world.networks[TOOLS].redis.redirect(path)
        feeding.stop("worker")
    first.valkey = second.valkey


@contextmanager
def _more_processes(world: World, servers: BreakableServers, database: str) -> Iterator[Service]:
    """Yield a service of the first one's settings on other servers or another database; its processes are killed."""
    folder = Path(world.context.folder / f"{database}-{uuid4().hex[:8]}")
    folder.mkdir()
    port = free_port()
    url = servers.postgres.url.replace("/follows?", f"/{database}?")
    with network_to(servers) as network:
        environment = {**world.services[0].environment, **network.environment(url), "FOLLOWS_PORT": str(port)}
        base_url = f"http://127.0.0.1:{port}"
        service = Service(base_url, folder, environment, {})
        try:
            yield service
        finally:
            for name in list(service.processes):
                service.kill(name)
            print(service.logs())


def _copy_database(world: World) -> None:
    """Copy the database; all connections to it are ended for that."""
    with _administrator(world) as connection:
        connection.execute("ALTER DATABASE follows ALLOW_CONNECTIONS false")
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'follows'")
            connection.execute(f"CREATE DATABASE {COPY} TEMPLATE follows".encode())
        finally:
            connection.execute("ALTER DATABASE follows ALLOW_CONNECTIONS true")


def _administrator(world: World) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(world.servers.postgres.url.replace("/follows?", "/postgres?"), autocommit=True)


def _follow_in_copy(copied: Service, world: World) -> None:
    """Follow a user in the copy: the follow is shown to its user or not, and never in the original."""
    original = world.services[0]
    user = f"copy-{uuid4().hex[:8]}"
    follower = {"Authorization": f"Bearer {original.token(user)}", "Idempotency-Key": user}
    with httpx.Client(base_url=copied.base_url, headers=follower, trust_env=False, timeout=30) as client:
        wait_until(lambda: client.post("/v1/users/user-1/follow").status_code == 201)
        read = client.get("/v1/users/user-1/follow-status")
        right = read.status_code == 503 or (read.status_code == 200 and read.json()["is_following"])
        world.counts.expect(right, f"in the copy, an own write is answered {read.text}")
    for web in WEBS:
        with httpx.Client(
            base_url=world.service(web).base_url, headers=follower, trust_env=False, timeout=30
        ) as client:
            read = client.get("/v1/users/user-1/follow-status")
            shown = read.status_code == 200 and read.json()["is_following"]
            world.counts.expect(not shown, f"a follow in the copy is shown by {web}")
    world.counts.add("follows in a copy of the database")


def _is_live(service: Service) -> bool:
    try:
        return httpx.get(f"{service.base_url}/health/live", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


FEEDERS: Final[tuple[Fault, ...]] = (copy_of_the_database, second_redis)
