"""Workers and rebuilds as real processes, that are killed, stopped, woken and told to end, on servers that restart."""

import asyncio
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from cli.procfile import ROOT, child_environment, commands, launch
from commands import leases, log
from commands.errors import Unavailable
from commands.events import UserFollowed
from commands.generations import registered
from commands.postgres import Engine, PostgresSettings, create_engine
from projections import generations
from projections.keys import GROUPS, View
from projections.store import Store, StoreSettings, open_store
from tests.breakable import BreakableServers
from tests.commands.writing import append
from tests.opened import Plain, engine, sql, store
from tests.projections.model import actual, expected
from tests.projections.watching import level
from tests.projections.worlds import people, populate, write
from tests.restored import Restored
from tests.servers import STOP_LIMIT_S, Servers
from tests.waiting import until

__all__ = ["engine", "sql", "store"]

# Four seconds are promised, five are allowed; the rest is for a machine that has other things to do.
TAKEN_OVER_S = 8.0
# Enough that a rebuild at this rate can be killed in its middle.
SLOWLY = 40


@pytest.fixture
def redis(redis_url: str) -> Iterator[Plain]:
    """A plain client for looking at the views by hand."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def environment(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> dict[str, str]:
    """What the processes are given."""
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    return child_environment({**os.environ, **urls, "FOLLOWS_DATA": str(tmp_path / "none")})


class Process:
    """A worker, a rebuilder or a command, and all that it has started."""

    def __init__(self, child: subprocess.Popen[bytes], said: Path) -> None:
        self.child, self._said = child, said

    def send(self, number: signal.Signals) -> None:
        """A signal for all of it."""
        os.killpg(self.child.pid, number)

    def kill(self) -> None:
        """kill -9 for the process alone: what it has started must end by itself."""
        self.child.kill()
        self.child.wait(STOP_LIMIT_S)

    def end(self) -> int:
        """Ask it to end; its exit code."""
        self.child.terminate()
        return self.child.wait(STOP_LIMIT_S)

    def said(self) -> str:
        """Its output so far."""
        return self._said.read_text()

    def is_alone(self) -> bool:
        """Whether nothing that it has started runs any more."""
        try:
            os.killpg(self.child.pid, 0)
        except ProcessLookupError:
            return True
        return False


@contextmanager
def running(command: str, environment: Mapping[str, str], folder: Path) -> Iterator[Process]:
    """The command until the block ends, in a session of its own; what it said is printed for a failure."""
    said = folder / f"{time.monotonic_ns()}.log"
    with said.open("wb") as output:
        process = Process(launch(command, environment, output.fileno()), said)
    try:
        yield process
    finally:
        if not process.is_alone():
            process.send(signal.SIGKILL)
        process.child.wait()
        print(process.said())
        assert "Traceback" not in process.said()


def follows(environment: Mapping[str, str], *words: object) -> Any:
    """What ``follows words... --json`` says, run to its end."""
    command = [sys.executable, "-m", "cli", *map(str, words), "--json"]
    done = subprocess.run(command, env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


WORKER = commands()["worker"]
REBUILDER = f"{WORKER} rebuilds"


async def shared(engine: Engine, workers: int) -> bool:
    """Whether so many workers hold all lanes together."""
    held = [lease for lease in await leases.owners(engine) if lease.name != leases.BUILD]
    return len(held) == GROUPS and len({lease.owner for lease in held}) == workers


async def go_round(engine: Engine, times: int) -> None:
    """Return when every worker has renewed its leases so often from now on, as it does about once a second, paused or
    not; between two renewals it looks for a pause and into the log."""
    left: dict[str, float] = {}
    rounds: Counter[str] = Counter()

    async def enough() -> bool:
        for lease in await leases.owners(engine):
            rounds[lease.name] += lease.seconds > left.get(lease.name, math.inf)
            left[lease.name] = lease.seconds
        return len(left) >= GROUPS and min(rounds.values()) >= times

    await until(enough)


async def test_a_killed_workers_lanes_are_taken_over(
    engine: Engine, store: Store, sql: Any, redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """Within five seconds, by the one who is left; a third one then gets his share."""
    await populate(engine)
    with running(WORKER, environment, tmp_path) as one, running(WORKER, environment, tmp_path):
        await until(lambda: shared(engine, 2))
        await level(engine, store)
        one.send(signal.SIGKILL)
        began = time.monotonic()
        await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
        view = await level(engine, store)
        assert time.monotonic() - began < TAKEN_OVER_S
        assert actual(redis, view) == expected(sql, view)
        with running(WORKER, environment, tmp_path):
            await until(lambda: shared(engine, 2))
            await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
            assert await level(engine, store) == view
            assert actual(redis, view) == expected(sql, view)


async def test_a_worker_that_is_woken_after_its_lanes_were_taken_does_no_harm(
    engine: Engine, store: Store, sql: Any, redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """Stopped in the middle of its work, with what it was about to write; then it takes part again."""
    await populate(engine)
    with running(WORKER, environment, tmp_path) as zombie:
        await level(engine, store)
        for fan in range(1, 9):
            await write(engine, (fan, 11))
        zombie.send(signal.SIGSTOP)
        with running(WORKER, environment, tmp_path):
            await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
            view = await level(engine, store)
            zombie.send(signal.SIGCONT)
            await until(lambda: shared(engine, 2))
            await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
            assert await level(engine, store) == view
            assert actual(redis, view) == expected(sql, view)


async def test_a_worker_that_ends_gives_its_lanes_back(
    engine: Engine, store: Store, environment: dict[str, str], tmp_path: Path
) -> None:
    """At once, so that a restart in production costs no waiting."""
    with running(WORKER, environment, tmp_path) as worker:
        await level(engine, store)
        assert len(await leases.owners(engine)) >= GROUPS
        assert worker.end() == 0
        assert await leases.owners(engine) == []


async def test_a_killed_rebuild_is_gone_on_with(
    engine: Engine, store: Store, sql: Any, redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """By the same command, with processes that fill; those of the killed one end by themselves, and readers see the
    old view all the time."""
    await populate(engine, 24)
    rebuild = f"{shlex.quote(sys.executable)} -m cli rebuild --workers 2 --lanes {GROUPS}"
    with running(WORKER, environment, tmp_path):
        old = await level(engine, store)
        new = View(old.generation + 1, GROUPS)
        with running(f"{rebuild} --rate {SLOWLY}", environment, tmp_path) as killed:
            await until(lambda: _has_begun(store, new))
            killed.kill()
            await until(killed.is_alone)
        at = await generations.stands_at(store, new)
        assert at is not None and at < (await log.head(engine)).position
        assert await generations.live_view(store) == old
        await write(engine, (1, 2), (3, 4))
        with running(rebuild, environment, tmp_path) as done:
            assert await asyncio.to_thread(done.child.wait, 60) == 0
        assert await level(engine, store) == new
        assert actual(redis, new) == expected(sql, new)


async def _has_begun(store: Store, view: View) -> bool:
    return bool(await generations.stands_at(store, view))


async def test_a_rebuild_that_is_woken_after_another_one_does_no_harm(
    engine: Engine, store: Store, sql: Any, redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """It slept through its lease, and the other one has filled the generation and shown it to readers: it says so and
    ends."""
    await populate(engine, 24)
    rebuild = f"{shlex.quote(sys.executable)} -m cli rebuild --lanes {GROUPS}"
    with running(WORKER, environment, tmp_path):
        old = await level(engine, store)
        new = View(old.generation + 1, GROUPS)
        with running(f"{rebuild} --rate {SLOWLY}", environment, tmp_path) as zombie:
            await until(lambda: _has_begun(store, new))
            zombie.send(signal.SIGSTOP)
            with running(rebuild, environment, tmp_path) as done:
                assert await asyncio.to_thread(done.child.wait, 60) == 0
            assert await level(engine, store) == new
            await write(engine, (1, 2), (3, 4))
            zombie.send(signal.SIGCONT)
            assert await asyncio.to_thread(zombie.child.wait, 60) == 1
            assert re.search("^follows: .*(lost|another owner)", zombie.said(), re.MULTILINE)
        assert await level(engine, store) == new
        assert actual(redis, new) == expected(sql, new)


async def test_a_rebuild_as_a_job_survives_its_worker(
    engine: Engine, store: Store, sql: Any, redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """Asked for once; its process is killed in the middle, and the next one takes it up as soon as the lease ends."""
    await populate(engine, 24)
    with running(WORKER, environment, tmp_path):
        old = await level(engine, store)
        new = View(old.generation + 1, 16)
        words = ("rebuild", "--job", "--lanes", 16, "--rate", SLOWLY)
        assert follows(environment, *words) == {"queued": True}
        assert follows(environment, *words) == {"queued": False}
        with running(REBUILDER, environment, tmp_path) as killed:
            await until(lambda: _has_begun(store, new))
            told = {row["number"]: row for row in follows(environment, "generations")}[new.generation]
            assert (told["state"], told["seen"]) == ("building", False) and 0 < told["position"] < told["head"]
            killed.send(signal.SIGKILL)
        assert await generations.live_view(store) == old
        with running(REBUILDER, environment, tmp_path) as rebuilder:
            assert await until(lambda: _sees(store, new), 60)
            assert await level(engine, store) == new
            assert actual(redis, new) == expected(sql, new)
            assert rebuilder.end() == 0


async def _sees(store: Store, view: View) -> bool:
    return await generations.live_view(store) == view


async def test_a_pause_holds_every_worker(
    engine: Engine, store: Store, environment: dict[str, str], tmp_path: Path
) -> None:
    """Once each has looked for it, and until it is over; status says who, why and since when."""
    numbers = await people(engine, 4)
    with running(WORKER, environment, tmp_path), running(WORKER, environment, tmp_path):
        await until(lambda: shared(engine, 2))
        view = await level(engine, store)
        follows(environment, "pause", "--who", "ann", "--why", "a test")
        await go_round(engine, 3)
        before = await generations.stands_at(store, view)
        await write(engine, (numbers[0], numbers[1]))
        await go_round(engine, 2)  # a worker that is not paused would have seen it
        assert await generations.stands_at(store, view) == before
        assert "by ann since" in follows(environment, "status")["paused"]
        assert follows(environment, "resume") == {"paused": False, "was_paused": True}
        assert await level(engine, store) == view


async def test_a_log_restored_to_an_older_state_is_never_contradicted(
    servers: Servers, database_url: str, store: Store, redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """Readers get 503 once it is noticed, then the older truth, and from then on never what is not in the log."""
    database = Restored(servers, database_url)
    async with _opened(database_url) as engine:
        numbers = await people(engine, 4)
        await append(engine, numbers[0], numbers[1], UserFollowed())
    database.save()
    with running(WORKER, environment, tmp_path):
        async with _opened(database_url) as engine:
            await append(engine, numbers[2], numbers[3], UserFollowed())
            newer = await level(engine, store)
        seen: list[tuple[View | None, bool]] = []

        async def look() -> bool:
            view = await generations.live_view(store)
            seen.append((view, view is not None and redis.exists(view.following(numbers[2])) == 1))
            return view not in (None, newer)

        assert not await look()
        looking = asyncio.create_task(until(look, 30))
        await asyncio.to_thread(database.restore)
        await looking
        async with _opened(database_url) as engine:
            view = await level(engine, store)
            with psycopg.connect(database_url, autocommit=True) as sql:
                assert actual(redis, view) == expected(sql, view)
        order = [view for at, (view, _) in enumerate(seen) if at == 0 or seen[at - 1][0] != view]
        assert order == [newer, None, view]
        assert not any(has_it for found, has_it in seen if found == view)


class _opened:  # noqa: N801 - read as a function
    """An engine for the length of a block."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(PostgresSettings(url))

    async def __aenter__(self) -> Engine:
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()


@pytest.fixture
async def own(breakable: BreakableServers) -> AsyncIterator[tuple[Engine, Store]]:
    """An engine and a store on the servers that may be broken."""
    breakable.whole()
    engine, store = (
        create_engine(PostgresSettings(breakable.postgres.url)),
        open_store(StoreSettings(breakable.valkey.url)),
    )
    yield engine, store
    await store.close()
    await engine.dispose()


async def test_servers_may_restart_under_workers_and_rebuilds(
    breakable: BreakableServers, own: tuple[Engine, Store], tmp_path: Path
) -> None:
    """Postgres, then Valkey, in the middle of a rebuild as a job: both go on by themselves to the end."""
    engine, store = own
    urls = (breakable.postgres.url, breakable.valkey.url, breakable.queue_url)
    given = dict(zip(("DATABASE_URL", "REDIS_URL", "QUEUE_URL"), urls, strict=True))
    environment = child_environment({**os.environ, **given, "FOLLOWS_DATA": str(tmp_path / "none")})
    if (end := (await log.head(engine)).position) < 1_000:
        await populate(engine, 24)
        end = (await log.head(engine)).position
    with running(WORKER, environment, tmp_path), running(REBUILDER, environment, tmp_path):
        old = await level(engine, store)
        words = ("rebuild", "--job", "--lanes", GROUPS, "--rate", end // 8)
        assert follows(environment, *words) == {"queued": True}
        new = await until(lambda: _begun_after(engine, store, old))
        breakable.postgres.restart()
        assert (await generations.stands_at(store, new) or 0) < end
        breakable.valkey.restart()
        view = await until(lambda: _moved_on(store, old), 60)
        assert view == new
        await until(lambda: _answers(engine))
        await append(engine, 1001, 1002, UserFollowed())
        assert await level(engine, store) == view
        with psycopg.connect(breakable.postgres.url, autocommit=True) as sql, Redis.from_url(urls[1]) as redis:
            assert actual(redis, view) == expected(sql, view)


async def _begun_after(engine: Engine, store: Store, old: View) -> View | None:
    """The view that is being built, whatever its number: a killed Postgres goes on counting some numbers later."""
    building = [View(row.number, row.lanes) for row in await registered(engine) if row.number > old.generation]
    return building[-1] if building and await _has_begun(store, building[-1]) else None


async def _answers(engine: Engine) -> bool:
    """Whether the log answers; the first connections to a restarted server are dead ones."""
    try:
        await log.head(engine)
    except Unavailable:
        return False
    return True


async def _moved_on(store: Store, before: View) -> View | None:
    try:
        view = await generations.live_view(store)
    except Unavailable:
        return None
    return None if view == before else view
