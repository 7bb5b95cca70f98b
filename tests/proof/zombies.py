"""Part 4: workers are stopped until others have their leases and a successor has done their work, then continued.

They must change nothing. In the first of every two rounds they are stopped in the middle of a batch, which the apply
script answers with FENCED when they continue.
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
from uuid import uuid4

import msgspec
import psycopg
from redis import Redis

from cli.dev.processes import program
from cli.dev.supervisor import start_program
from commands.coordination.leases import GROUP_PREFIX
from projections.client.client import each_of
from projections.keys import LEASE_GROUPS, POINTER, View, lease_group_of
from projections.projector.apply import APPLY
from tests.proof.parts import Counts, PartContext
from tests.support.breakable_servers import wait_until
from tests.support.log_writes import Connection, rows
from tests.support.queues import NAMES
from tests.support.servers import Servers, fresh_database
from tests.support.view_model import actual, expected, positions

TITLE: Final = "4 zombies"
# Workers that are stopped; a world has one more, which takes over.
ZOMBIES: Final = 3
WORLDS: Final = 2
ROUNDS: Final = 200
USERS: Final = 40
BATCH: Final = 20
WRITES_BEFORE_STOP_MAX_S: Final = 0.2
TAKE_OVER_TIMEOUT_S: Final = 60.0
LOG_LINE_TIMEOUT_S: Final = 10.0
# Texts of the workers' log lines.
FENCED: Final = "has another owner"
AHEAD: Final = "are AHEAD"

APPEND: Final = """SELECT append_events(%s::bigint[], %s::bigint[], %s::integer[], %s::event_type[],
    %s::jsonb[], %s::uuid[], %s::bytea[])"""
OWNERS: Final = "SELECT owner, count(*) FROM leases WHERE name ~ '^group:' GROUP BY owner"
HOLDERS: Final = "SELECT name, owner FROM leases WHERE name ~ '^group:'"


def run(context: PartContext) -> Counts:
    """Run rounds in several worlds at once, since most of a round is waiting for a successor."""
    counts, worlds = Counts(), context.by_scale(1, WORLDS)
    with context.servers() as servers, ThreadPoolExecutor(worlds) as threads:
        for one in threads.map(lambda number: _rounds(context, servers, number), range(worlds)):
            for what, number in one.tried.items():
                counts.add(what, number)
            counts.wrong += one.wrong
    return counts


def _rounds(context: PartContext, servers: Servers, number: int) -> Counts:
    counts, rng = Counts(), context.rng("zombies", number)
    with fresh_database(servers) as url:
        views, queue = servers.valkey_url(2 * number), servers.valkey_url(2 * number + 1)
        with _world(url, views, queue, context.folder / f"world-{number}") as world:
            for turn in range(context.by_scale(1, ROUNDS // WORLDS)):
                counts.wrong += _round(world, rng, counts, frozen=turn % 2 == 0)
    return counts


def _round(world: World, rng: random.Random, counts: Counts, *, frozen: bool) -> list[str]:
    """Stop all workers but one, let that one take over, continue the others, and return what is wrong.

    While partitions are ``frozen`` every worker is stopped between two tries of a batch; when it continues it tries the
    batch again and is FENCED. Otherwise it may be idle: then it renews its leases first and writes nothing.
    """
    wait_until(lambda: len(rows(world.sql, OWNERS)) == len(world.workers), TAKE_OVER_TIMEOUT_S)
    zombies = rng.sample(world.workers, ZOMBIES)
    if frozen:
        world.freeze()
        world.wait_for_tries()
        world.freeze()  # with another token, which the workers meet for the first time
    _write_until(world, rng, time.monotonic() + rng.uniform(0, WRITES_BEFORE_STOP_MAX_S))
    for zombie in zombies:
        zombie.process.send_signal(signal.SIGSTOP)
        world.write(rng)
    if frozen:
        world.unfreeze()
    try:
        wait_until(lambda: [count for _, count in rows(world.sql, OWNERS)] == [LEASE_GROUPS], TAKE_OVER_TIMEOUT_S)
        world.write(rng)
        wait_until(world.is_caught_up, TAKE_OVER_TIMEOUT_S)
        before = world.contents()
        logged = [zombie.logged for zombie in zombies]
    finally:
        for zombie in zombies:
            zombie.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(rows(world.sql, OWNERS)) == len(world.workers), TAKE_OVER_TIMEOUT_S)
    counts.add("rounds")
    counts.add("workers stopped beyond their lease and woken", len(zombies))
    found = _check_fenced(zombies, logged, counts, frozen=frozen)
    found += [] if world.contents() == before else ["a zombie has changed the views"]
    return found + ([] if before == (expected(world.sql, world.view), world.head) else ["the views are not the fold"])


def _check_fenced(zombies: list[Worker], logged: list[str], counts: Counts, *, frozen: bool) -> list[str]:
    """Count the workers that have logged FENCED after ``logged``; complain if one was in a batch and has not.

    The script checks the fence first, so such a worker must log FENCED before AHEAD.
    """

    def fenced() -> int:
        new = [zombie.logged[len(old) :].partition(FENCED) for zombie, old in zip(zombies, logged, strict=True)]
        return sum(bool(found) and not (frozen and AHEAD in first) for first, found, _ in new)

    if frozen:
        counts.add("of them in the middle of a batch", len(zombies))
        with suppress(AssertionError):  # a worker takes its new leases before it logs this
            wait_until(lambda: fenced() == len(zombies), LOG_LINE_TIMEOUT_S)
    counts.add("of them fenced at their next batch or look", number := fenced())
    if frozen and number < len(zombies):
        return [f"only {number} of {len(zombies)} workers in the middle of a batch were fenced"]
    return []


def _write_until(world: World, rng: random.Random, end: float) -> None:
    world.write(rng)
    while time.monotonic() < end:
        world.write(rng)


@dataclass
class Worker:
    """A worker process and its log file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def logged(self) -> str:
        """Return all that it has logged so far."""
        return self.log.read_text()


@dataclass
class World:
    """A log, its views, and the workers that project it."""

    sql: Connection
    raw_redis: Any
    queue: Any
    workers: list[Worker]
    versions: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def view(self) -> View:
        """Return the live view."""
        return msgspec.json.decode(self.raw_redis.get(POINTER), type=View)

    @property
    def head(self) -> int:
        """Return the log's last position."""
        [(position,)] = rows(self.sql, "SELECT coalesce(max(position), 0) FROM events")
        return int(position)

    def write(self, rng: random.Random) -> None:
        """Append some random follows and unfollows, and wake the workers."""
        users = range(1, USERS + 1)
        drawn = zip(rng.choices(users, k=BATCH), rng.choices(users, k=BATCH), strict=True)
        self.append(sorted({(follower, followed) for follower, followed in drawn if follower != followed}))

    def append(self, pairs: list[tuple[int, int]]) -> None:
        """Append a follow of each pair, or an unfollow if the pair follows already, and wake the workers."""
        for pair in pairs:
            self.versions[pair] = self.versions.get(pair, 0) + 1
        types = ["UserFollowed" if self.versions[pair] % 2 else "UserUnfollowed" for pair in pairs]
        subjects = [subject for subject, _ in pairs]
        columns = [subjects, [other for _, other in pairs], [self.versions[pair] for pair in pairs], types]
        self.sql.execute(APPEND.encode(), [*columns, *[[None] * len(pairs)] * 3])
        self.queue.publish(NAMES.wake_channel(), self.head)

    def freeze(self) -> None:
        """Freeze every partition, as a switch does; the workers break such a freeze after two seconds."""
        for partition in range(self.view.partitions):
            self.raw_redis.hset(self.view.checkpoint(partition), "frozen", uuid4().hex)

    def wait_for_tries(self) -> None:
        """Append events for every partition; return when each worker has sent an apply script for one of its own."""
        self.append([(number, number % USERS + 1) for number in range(1, USERS + 1)])
        partitions = {
            self.view.checkpoint(partition): f"{GROUP_PREFIX}{lease_group_of(partition)}"
            for partition in range(self.view.partitions)
        }
        holders = dict(rows(self.sql, HOLDERS))
        waiting, end = set(holders.values()), time.monotonic() + TAKE_OVER_TIMEOUT_S
        database = self.raw_redis.connection_pool.connection_kwargs["db"]
        scripts = {APPLY.sha, each_of(APPLY).sha}
        with self.raw_redis.monitor() as monitor:
            while waiting:
                assert time.monotonic() < end, f"{len(waiting)} workers do not try to write"
                command = monitor.next_command()
                name, *words = command["command"].split()
                if command["db"] == database and name == "EVALSHA" and words[0] in scripts:
                    for checkpoint in partitions.keys() & words[2 : 2 + int(words[1])]:
                        waiting.discard(holders[partitions[checkpoint]])

    def unfreeze(self) -> None:
        """Unfreeze every partition."""
        for partition in range(self.view.partitions):
            self.raw_redis.hdel(self.view.checkpoint(partition), "frozen")

    def is_caught_up(self) -> bool:
        """Return True if every partition is at the log's end."""
        return set(positions(self.raw_redis, self.view)) == {self.head}

    def contents(self) -> tuple[dict[str, Any], int]:
        """Return the contents of the views and the position of their partitions."""
        [position] = set(positions(self.raw_redis, self.view))
        return actual(self.raw_redis, self.view), position


@contextmanager
def _world(database_url: str, views_url: str, queue_url: str, folder: Path) -> Iterator[World]:
    """Yield a world whose workers have started; they are killed at the end of the block."""
    folder.mkdir()
    urls = {"DATABASE_URL": database_url, "REDIS_URL": views_url, "QUEUE_URL": queue_url}
    settings = {**os.environ, **urls}
    with ExitStack() as stack:
        sql = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        raw_redis, queue = (stack.enter_context(Redis.from_url(url)) for url in (views_url, queue_url))
        world = World(sql, raw_redis, queue, [])
        for number in range(ZOMBIES + 1):
            log = folder / f"{number}.log"
            with log.open("wb") as output:
                process = start_program(program("worker", settings), output)
            stack.callback(_end, process)
            world.workers.append(Worker(process, log))
        wait_until(lambda: raw_redis.exists(POINTER) == 1, TAKE_OVER_TIMEOUT_S)
        yield world


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
