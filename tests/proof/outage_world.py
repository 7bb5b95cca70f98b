"""The deployment whose network, clocks and servers the part `outages` changes, and its clients."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tests.proof.clients import Client, Record
from tests.proof.clocks import Clocks
from tests.proof.deployment import CATCH_UP_TIMEOUT_S, Deployment, read_events, running_services
from tests.proof.login_moves import LoginMoves
from tests.proof.parts import Counts, PartContext
from tests.support.breakable_servers import BreakableServers, breakable_servers
from tests.support.network import Network, network_to, redis_socket
from tests.support.proxy import postgres_socket
from tests.support.servers import Service

T = TypeVar("T")
WEBS: Final = ("web", "web-2")
WORKERS: Final = ("worker", "worker-2")
TOOLS: Final = "tools"


@dataclass(frozen=True)
class World(Deployment):
    """A deployment whose processes each have a network of their own, with clients that run in ``loop``."""

    context: PartContext
    counts: Counts
    networks: dict[str, Network]
    clocks: Clocks
    # Holds what faults start and must not end before the run.
    stack: ExitStack
    clients_there: list[Client] = field(default_factory=list)
    logins: list[LoginMoves] = field(default_factory=list)
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)

    def service(self, name: str) -> Service:
        """Return the service that a process belongs to."""
        return self.services[name.endswith("-2")]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and its children."""
        os.killpg(self.service(name).processes[name].pid, number)

    def wait_level(self, limit_s: float = CATCH_UP_TIMEOUT_S) -> None:
        """Return when the views lack no more events than the clients may have just written."""
        self.wait_caught_up(len(self.clients_there), limit_s)

    def tool(self, *words: object) -> str:
        """Run a tool of the service, and return what it prints."""
        command = [sys.executable, "-m", "cli", *map(str, words)]
        return subprocess.run(
            command, env=dict(self.services[0].environment), check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def lead_to(self, servers: BreakableServers) -> None:
        """Lead every process to these servers, behind the same addresses."""
        for network in self.networks.values():
            network.postgres.redirect(postgres_socket(servers.postgres.url))
            network.redis.redirect(redis_socket(servers.valkey.url))

    def in_loop(self, act: Callable[[], T]) -> T:
        """Call a function between two steps of the clients, from another thread; return its result."""

        async def called() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(called(), self.loops[-1]).result()

    def doubt(self, since: float) -> None:
        """Tell the clients that commands without an answer since then may be done only now."""

        def doubt() -> None:
            for client in self.clients_there:
                client.doubt(since)

        self.in_loop(doubt)

    def begin_anew(self, database_url: str) -> list[Record]:
        """Tell the clients that the log is this one from now on; return their records of the one before.

        No process may reach either log meanwhile.
        """
        events = read_events(database_url)

        def begin() -> list[Record]:
            for logins in self.logins:
                logins.begin_anew()
            return [client.begin_anew(_of(client.user, events)) for client in self.clients_there]

        return self.in_loop(begin)


@contextmanager
def running_world(context: PartContext, counts: Counts) -> Iterator[World]:
    """Yield the world with its services ready and its clients made, which do not act yet."""
    with ExitStack() as stack:
        servers = stack.enter_context(breakable_servers(context.folder / "servers"))
        clocks = Clocks(context.folder, counts)
        names = (*WEBS, *WORKERS, TOOLS)
        networks = {name: stack.enter_context(network_to(servers)) for name in names}
        own = {
            name: networks[name].environment(servers.postgres.url) | clocks.environment(name)
            for name in (*WEBS, *WORKERS)
        }
        given = networks[TOOLS].environment(servers.postgres.url)
        addresses = given["DATABASE_URL"], given["REDIS_URL"], given["QUEUE_URL"]
        services = stack.enter_context(running_services(context.folder, addresses, own))
        world = World(servers, services, context, counts, networks, clocks, stack)
        world.clients_there.extend(world.clients(context.by_scale(6, 24), context, counts))
        yield world


def _of(user: str, events: dict[tuple[str, str], list[str]]) -> dict[str, int]:
    return {followed: len(types) for (follower, followed), types in events.items() if follower == user}
