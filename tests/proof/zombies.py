"""Part 4: workers stopped beyond their leases and woken when a successor has done their work; nothing changes.

In every other round, the first among them, they are stopped in the middle of a batch, which is FENCED when they wake.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from redis import Redis

from cli.procfile import child_environment, commands, launch
from commands.leases import LANES
from projections.catch_up import APPLY
from projections.keys import GROUPS, POINTER, WAKE_CHANNEL, View, group_of
from tests.breakable import wait_until
from tests.commands.writing import Connection, rows
from tests.projections.model import actual, expected, positions
from tests.proof.trial import Counts, Trial
from tests.servers import Servers, fresh_database

TITLE: Final = "4 zombies"
# Of the workers of a world all but one are stopped.
ZOMBIES: Final = 3
WORLDS: Final = 2
ROUNDS: Final = 200
PEOPLE: Final = 40
BATCH: Final = 20
HOLD_MS: Final = 60_000
STOPPED_AFTER_S: Final = 0.2
LIMIT_S: Final = 60.0
SAYS_S: Final = 10.0
FENCED: Final = "has another owner"
AHEAD: Final = "are AHEAD"

APPEND: Final = """SELECT append_events(%s::bigint[], %s::bigint[], %s::integer[], %s::event_type[],
    %s::jsonb[], %s::uuid[], %s::bytea[])"""
OWNERS: Final = "SELECT owner, count(*) FROM leases WHERE name ~ '^lanes:' AND expires_at > now() GROUP BY owner"
HOLDERS: Final = "SELECT name, owner FROM leases WHERE name ~ '^lanes:'"


def run(trial: Trial) -> Counts:
    """Rounds in several worlds side by side, since most of a round is waiting for leases to run out."""
    counts, worlds = Counts(), trial.times(1, WORLDS)
    with trial.servers() as servers, ThreadPoolExecutor(worlds) as threads:
        for one in threads.map(lambda number: _rounds(trial, servers, number), range(worlds)):
            for what, number in one.tried.items():
                counts.add(what, number)
            counts.wrong += one.wrong
    return counts


def _rounds(trial: Trial, servers: Servers, number: int) -> Counts:
    counts, chance = Counts(), trial.chance("zombies", number)
    with fresh_database(servers) as url:
        views, queue = servers.valkey_url(2 * number), servers.valkey_url(2 * number + 1)
        with _world(url, views, queue, trial.folder / f"world-{number}") as world:
            for turn in range(trial.times(1, ROUNDS // WORLDS)):
                for complaint in _round(world, chance, counts, held=turn % 2 == 0):
                    counts.wrong.append(f"{complaint}; again: {trial.again('zombies')}")
    return counts


def _round(world: World, chance: random.Random, counts: Counts, *, held: bool) -> list[str]:
    """All but one are stopped at work and woken when that one has done it; what is wrong then.

    Where lanes are ``held`` each is stopped between two tries of a batch, tries it again when he wakes, and is FENCED.
    Else he may be idle, asks for his leases first, and has nothing to say.
    """
    wait_until(lambda: len(rows(world.sql, OWNERS)) == len(world.workers), LIMIT_S)
    zombies = chance.sample(world.workers, ZOMBIES)
    if held:
        world.hold(HOLD_MS)
        world.wait_for_tries()
    _write_until(world, chance, time.monotonic() + chance.uniform(0, STOPPED_AFTER_S))
    for zombie in zombies:
        zombie.process.send_signal(signal.SIGSTOP)
        world.write(chance)
    if held:
        world.let_go()
    try:
        wait_until(lambda: [count for _, count in rows(world.sql, OWNERS)] == [GROUPS], LIMIT_S)
        world.write(chance)
        wait_until(world.level, LIMIT_S)
        before = world.looks()
        said = [zombie.said for zombie in zombies]
    finally:
        for zombie in zombies:
            zombie.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(rows(world.sql, OWNERS)) == len(world.workers), LIMIT_S)
    counts.add("rounds")
    counts.add("workers stopped beyond their lease and woken", len(zombies))
    found = _fenced(zombies, said, counts, held=held)
    found += [] if world.looks() == before else ["a zombie has changed the views"]
    return found + ([] if before == (expected(world.sql, world.view), world.head) else ["the views are not the fold"])


def _fenced(zombies: list[Worker], said: list[str], counts: Counts, *, held: bool) -> list[str]:
    """Count who has been told so since he had ``said`` that; a complaint when somebody must be and is not.

    Who tries a batch again is told by the script, before anything else that could stop him: that others did it already.
    """

    def fenced() -> int:
        told = [zombie.said[len(old) :].partition(FENCED) for zombie, old in zip(zombies, said, strict=True)]
        return sum(bool(found) and not (held and AHEAD in first) for first, found, _ in told)

    if held:
        counts.add("of them in the middle of a batch", len(zombies))
        with suppress(AssertionError):  # he takes his new leases before he says it
            wait_until(lambda: fenced() == len(zombies), SAYS_S)
    counts.add("of them fenced at their next batch or look", number := fenced())
    if held and number < len(zombies):
        return [f"only {number} of {len(zombies)} who were in the middle of a batch were fenced"]
    return []


def _write_until(world: World, chance: random.Random, end: float) -> None:
    world.write(chance)
    while time.monotonic() < end:
        world.write(chance)


@dataclass
class Worker:
    """A worker process, and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """All of it."""
        return self.log.read_text()


@dataclass
class World:
    """A log with people in it, its views, and the workers that keep them level."""

    sql: Connection
    redis: Any
    queue: Any
    workers: list[Worker]
    versions: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def view(self) -> View:
        """What readers see."""
        return msgspec.json.decode(self.redis.get(POINTER), type=View)

    @property
    def head(self) -> int:
        """The log's end."""
        [(position,)] = rows(self.sql, "SELECT coalesce(max(position), 0) FROM events")
        return int(position)

    def write(self, chance: random.Random) -> None:
        """Some follows begin and some end, and the workers hear of it."""
        everybody = range(1, PEOPLE + 1)
        drawn = zip(chance.choices(everybody, k=BATCH), chance.choices(everybody, k=BATCH), strict=True)
        self.append(sorted({(follower, followed) for follower, followed in drawn if follower != followed}))

    def append(self, pairs: list[tuple[int, int]]) -> None:
        """These follows begin, or end where they have begun, and the workers hear of it."""
        for pair in pairs:
            self.versions[pair] = self.versions.get(pair, 0) + 1
        types = ["UserFollowed" if self.versions[pair] % 2 else "UserUnfollowed" for pair in pairs]
        subjects = [subject for subject, _ in pairs]
        columns = [subjects, [other for _, other in pairs], [self.versions[pair] for pair in pairs], types]
        self.sql.execute(APPEND.encode(), [*columns, *[[None] * len(pairs)] * 3])
        self.queue.publish(WAKE_CHANNEL, self.head)

    def hold(self, ms: int) -> None:
        """Nobody can write to a lane, as if it was being mended."""
        for lane in range(self.view.lanes):
            self.redis.hset(self.view.checkpoint(lane), "hold", f"proof:{int(time.time() * 1000) + ms}")

    def wait_for_tries(self) -> None:
        """Something comes for each worker, whose lanes are held; return when each has tried to write it."""
        self.append([(number, number % PEOPLE + 1) for number in range(1, PEOPLE + 1)])
        lanes = {self.view.checkpoint(lane): f"{LANES}{group_of(lane)}" for lane in range(self.view.lanes)}
        holders = dict(rows(self.sql, HOLDERS))
        waiting, end = set(holders.values()), time.monotonic() + LIMIT_S
        database = self.redis.connection_pool.connection_kwargs["db"]
        with self.redis.monitor() as heard:
            while waiting:
                assert time.monotonic() < end, f"{len(waiting)} workers do not try to write"
                said = heard.next_command()
                name, *words = said["command"].split()
                if said["db"] == database and name == "EVALSHA" and words[0] == APPLY.sha:
                    waiting.discard(holders[lanes[words[2]]])

    def let_go(self) -> None:
        """They can again."""
        for lane in range(self.view.lanes):
            self.redis.hdel(self.view.checkpoint(lane), "hold")

    def level(self) -> bool:
        """Whether every lane stands at the log's end."""
        return set(positions(self.redis, self.view)) == {self.head}

    def looks(self) -> tuple[dict[str, Any], int]:
        """What is in the views, and where the lanes stand."""
        [stand] = set(positions(self.redis, self.view))
        return actual(self.redis, self.view), stand


@contextmanager
def _world(database_url: str, views_url: str, queue_url: str, folder: Path) -> Iterator[World]:
    """Workers that have begun; however it ends, none of them is left."""
    folder.mkdir()
    urls = {"DATABASE_URL": database_url, "REDIS_URL": views_url, "QUEUE_URL": queue_url}
    settings = child_environment({**os.environ, **urls})
    with ExitStack() as stack:
        sql = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        redis, queue = (stack.enter_context(Redis.from_url(url)) for url in (views_url, queue_url))
        world = World(sql, redis, queue, [])
        for number in range(ZOMBIES + 1):
            log = folder / f"{number}.log"
            with log.open("wb") as output:
                process = launch(commands()["worker"], settings, output.fileno())
            stack.callback(_end, process)
            world.workers.append(Worker(process, log))
        wait_until(lambda: redis.exists(POINTER) == 1, LIMIT_S)
        yield world


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
