"""Faults of the part `outages`: workers, projection, servers or one process' network are absent for a while."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Final

from tests.proof.outage_world import WEBS, WORKERS, World
from tests.support.network import Network
from tests.support.resetting_server import ResettingServer

# A worker that is cut off is replaced within this time.
TAKE_OVER_MAX_S: Final = 20.0
HALT_S: Final = 3.0
HALT_PAUSE_S: Final = 0.5
# The web processes that must answer callers that have written nothing during a fault, its begin apart.
Readers = tuple[str, ...]
Fault = Callable[[World, random.Random], Iterator[Readers]]


def workers_stopped(world: World, _: random.Random) -> Iterator[Readers]:
    """All workers are stopped, and continue where they were."""
    for name in WORKERS:
        world.signal(name, signal.SIGSTOP)
    yield WEBS
    for name in WORKERS:
        world.signal(name, signal.SIGCONT)


def workers_dead(world: World, _: random.Random) -> Iterator[Readers]:
    """All workers are dead, and others start."""
    for name in WORKERS:
        world.service(name).kill(name)
    yield WEBS
    for name in WORKERS:
        world.service(name).start(name)


def workers_halting(world: World, rng: random.Random) -> Iterator[Readers]:
    """One worker after the other is stopped, each time for less than it takes until another one has its partitions."""
    ended = threading.Event()

    def halt() -> None:
        while not ended.wait(HALT_PAUSE_S):
            name = rng.choice(WORKERS)
            world.signal(name, signal.SIGSTOP)
            ended.wait(HALT_S)
            world.signal(name, signal.SIGCONT)

    halting = threading.Thread(target=halt)
    halting.start()
    try:
        yield WEBS
    finally:
        ended.set()
        halting.join()


def paused(world: World, _: random.Random) -> Iterator[Readers]:
    """An operator has paused the projection."""
    world.tool("pause", "--why", "to see what happens")
    yield WEBS
    world.tool("resume")


def redis_frozen(world: World, _: random.Random) -> Iterator[Readers]:
    """Redis answers nothing; its connections stay open."""
    with world.servers.valkey.frozen():
        yield ()


def redis_down(world: World, _: random.Random) -> Iterator[Readers]:
    """Redis is killed and starts again later."""
    with world.servers.valkey.down():
        yield ()


def postgres_frozen(world: World, _: random.Random) -> Iterator[Readers]:
    """Postgres answers nothing; its connections stay open, and reads go on."""
    began = monotonic()
    with world.servers.postgres.frozen():
        yield WEBS
        world.doubt(began)


def postgres_down(world: World, _: random.Random) -> Iterator[Readers]:
    """Postgres is killed and starts again later; reads go on."""
    with world.servers.postgres.down():
        yield WEBS


def web_without_redis(world: World, rng: random.Random) -> Iterator[Readers]:
    """The packets between one web process and Redis vanish; the other one answers."""
    name = rng.choice(WEBS)
    with _held(world, world.networks[name].redis):
        yield _without(name)


def web_without_postgres(world: World, rng: random.Random) -> Iterator[Readers]:
    """The packets between one web process and Postgres vanish; the other one answers."""
    name = rng.choice(WEBS)
    with _held(world, world.networks[name].postgres):
        yield _without(name)


def web_without_network(world: World, rng: random.Random) -> Iterator[Readers]:
    """The packets between one web process and both servers vanish; the other one answers."""
    name = rng.choice(WEBS)
    with _held(world, *_both(world.networks[name])):
        yield _without(name)


def worker_without_redis(world: World, rng: random.Random) -> Iterator[Readers]:
    """The packets between one worker and Redis vanish; the other worker takes over."""
    with _held(world, world.networks[rng.choice(WORKERS)].redis):
        yield WEBS
        world.wait_level(TAKE_OVER_MAX_S)


def worker_without_postgres(world: World, rng: random.Random) -> Iterator[Readers]:
    """The packets between one worker and Postgres vanish; the other worker takes over."""
    with _held(world, world.networks[rng.choice(WORKERS)].postgres):
        yield WEBS
        world.wait_level(TAKE_OVER_MAX_S)


def worker_without_network(world: World, rng: random.Random) -> Iterator[Readers]:
    """The packets between one worker and both servers vanish; the other worker takes over."""
    with _held(world, *_both(world.networks[rng.choice(WORKERS)])):
        yield WEBS
        world.wait_level(TAKE_OVER_MAX_S)


def resets_in_every_handshake(world: World, _: random.Random) -> Iterator[Readers]:
    """What is between the processes and Redis resets each connection after two to six commands."""
    for network in world.networks.values():
        network.redis.reset()
    yield ()
    for network in world.networks.values():
        network.redis.forward()


def _both(network: Network) -> tuple[ResettingServer, ResettingServer]:
    return network.redis, network.postgres


def _without(name: str) -> Readers:
    return tuple(other for other in WEBS if other != name)


@contextmanager
def _held(world: World, *held: ResettingServer) -> Iterator[None]:
    """Let nothing pass; what was sent meanwhile arrives at the end."""
    began = monotonic()
    with ExitStack() as stack:
        for server in held:
            server.hold()
            stack.callback(server.release)
        yield
        world.doubt(began)


# In these a web process can start and must answer.
WITHOUT_WORKERS: Final[tuple[Fault, ...]] = (workers_stopped, workers_dead, paused)
WITHOUT_POSTGRES: Final[tuple[Fault, ...]] = (postgres_frozen, postgres_down)
ABSENCES: Final[tuple[Fault, ...]] = (
    *WITHOUT_WORKERS,
    workers_halting,
    redis_frozen,
    redis_down,
    *WITHOUT_POSTGRES,
    web_without_redis,
    web_without_postgres,
    web_without_network,
    worker_without_redis,
    worker_without_postgres,
    worker_without_network,
    resets_in_every_handshake,
)
