"""Workers and rebuilds as real processes that are killed, stopped and continued, on servers that restart."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from cli.dev.processes import ROOT, program
from cli.dev.supervisor import start_program
from commands.coordination import leases
from commands.coordination.view_register import list_generations
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.errors import Unavailable
from commands.events import UserFollowed
from commands.log import event_log as log
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import LEASE_GROUPS, View
from projections.views import generations
from projections.views.building import build_position
from tests.support.breakable_servers import BreakableServers
from tests.support.fixtures import Plain, engine, redis, sql
from tests.support.live_view import up_to_date_view
from tests.support.log_writes import append
from tests.support.restored_database import Restored
from tests.support.servers import STOP_TIMEOUT_S, Servers
from tests.support.small_world import people, populate, write
from tests.support.view_model import actual, expected
from tests.support.waiting import until

__all__ = ["engine", "redis", "sql"]

# A takeover takes up to four seconds by its settings; the rest is for a busy machine.
TAKEOVER_TIMEOUT_S = 8.0
# Events per second of a rebuild that is slow enough to be killed halfway.
SLOW_RATE = 40


@pytest.fixture
def raw_redis(redis_url: str) -> Iterator[Plain]:
    """A plain Redis client for reading the views' keys."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def environment(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of the processes."""
    urls = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    return {**os.environ, **urls, "FOLLOWS_DATA": str(tmp_path / "none")}


class Process:
    """A worker, a rebuilder or a command, and its child processes."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self.child, self._log = child, log

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self.child.pid, number)

    def kill(self) -> None:
        """Kill the process alone; its children must end by themselves."""
        self.child.kill()
        self.child.wait(STOP_TIMEOUT_S)

    def end(self) -> int:
        """Terminate the process; return its exit code."""
        self.child.terminate()
        return self.child.wait(STOP_TIMEOUT_S)

    def output(self) -> str:
        """Return the output so far."""
        return self._log.read_text()

    def is_alone(self) -> bool:
        """Return True if none of its children runs any more."""
        try:
            os.killpg(self.child.pid, 0)
        except ProcessLookupError:
            return True
        return False


@contextmanager
def running(command: str, environment: Mapping[str, str], folder: Path) -> Iterator[Process]:
    """Run a command of ``follows`` in its own session until the block ends, and print its output for a failing test."""
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = Process(start_program(program(command, environment), output), log)
    try:
        yield process
    finally:
        if not process.is_alone():
            process.send(signal.SIGKILL)
        process.child.wait()
        print(process.output())
        assert "Traceback" not in process.output()


def follows(environment: Mapping[str, str], *words: object, code: int = 0) -> Any:
    """Run ``follows words... --json``, which must exit with ``code``, and return its output."""
    command = [sys.executable, "-m", "cli", *map(str, words), "--json"]
    done = subprocess.run(command, env=dict(environment), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


async def shared(engine: Engine, workers: int) -> bool:
    """Return True if this number of workers together holds all partitions."""
    held = [lease for lease in await leases.list_leases(engine) if lease.name != leases.BUILD_LEASE]
    return len(held) == LEASE_GROUPS and len({lease.owner for lease in held}) == workers


async def wait_for_renewals(engine: Engine, times: int) -> None:
    """Return when every worker has renewed its leases ``times`` times, as it does about once a second, paused or not.

    Between two renewals a worker checks for a pause and for new events.
    """
    seen: dict[str, set[int]] = defaultdict(set)

    async def enough() -> bool:
        for lease in await leases.list_leases(engine):
            seen[lease.name].add(lease.renewal)
        return len(seen) >= LEASE_GROUPS and min(map(len, seen.values())) > times

    await until(enough)


async def test_killed_worker_is_replaced_within_seconds(
    engine: Engine, redis: RedisClient, sql: Any, raw_redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """The other worker takes its partitions over; a third worker then gets its share."""
    await populate(engine)
    with running("worker", environment, tmp_path) as one, running("worker", environment, tmp_path):
        await until(lambda: shared(engine, 2))
        await up_to_date_view(engine, redis)
        one.send(signal.SIGKILL)
        began = time.monotonic()
        await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
        view = await up_to_date_view(engine, redis)
        assert time.monotonic() - began < TAKEOVER_TIMEOUT_S
        assert actual(raw_redis, view) == expected(sql, view)
        with running("worker", environment, tmp_path):
            await until(lambda: shared(engine, 2))
            await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
            assert await up_to_date_view(engine, redis) == view
            assert actual(raw_redis, view) == expected(sql, view)


async def test_worker_stopped_beyond_its_leases_changes_no_view(
    engine: Engine, redis: RedisClient, sql: Any, raw_redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """It is stopped in the middle of its work and continued when another worker has its partitions; it gets a share."""
    await populate(engine)
    with running("worker", environment, tmp_path) as zombie:
        await up_to_date_view(engine, redis)
        for fan in range(1, 9):
            await write(engine, (fan, 11))
        zombie.send(signal.SIGSTOP)
        with running("worker", environment, tmp_path):
            await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
            view = await up_to_date_view(engine, redis)
            zombie.send(signal.SIGCONT)
            await until(lambda: shared(engine, 2))
            await write(engine, *[(fan, star) for fan in range(1, 9) for star in range(9, 12)])
            assert await up_to_date_view(engine, redis) == view
            assert actual(raw_redis, view) == expected(sql, view)


async def test_terminated_worker_releases_its_leases(
    engine: Engine, redis: RedisClient, environment: dict[str, str], tmp_path: Path
) -> None:
    """At once, so that no other worker waits."""
    with running("worker", environment, tmp_path) as worker:
        await up_to_date_view(engine, redis)
        assert len(await leases.list_leases(engine)) >= LEASE_GROUPS
        assert worker.end() == 0
        assert await leases.list_leases(engine) == []


async def test_killed_rebuild_is_continued_by_the_same_command(
    engine: Engine, redis: RedisClient, sql: Any, raw_redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """Also with filler processes: those of the killed command end by themselves, and readers see the old view."""
    await populate(engine, 24)
    rebuild = f"rebuild --workers 2 --partitions {LEASE_GROUPS}"
    with running("worker", environment, tmp_path):
        old = await up_to_date_view(engine, redis)
        new = View(old.generation + 1, LEASE_GROUPS)
        with running(f"{rebuild} --rate {SLOW_RATE}", environment, tmp_path) as killed:
            await until(lambda: _has_begun(redis, new))
            killed.kill()
            await until(killed.is_alone)
        at = await generations.view_position(redis, new)
        assert at is not None and at < (await log.head(engine)).position
        assert await generations.live_view(redis) == old
        await write(engine, (1, 2), (3, 4))
        with running(rebuild, environment, tmp_path) as done:
            assert await asyncio.to_thread(done.child.wait, 60) == 0
        assert await up_to_date_view(engine, redis) == new
        assert actual(raw_redis, new) == expected(sql, new)


async def _has_begun(redis: RedisClient, view: View) -> bool:
    return bool(await build_position(redis, view))


async def test_rebuild_stopped_beyond_its_lease_changes_nothing_and_fails(
    engine: Engine, redis: RedisClient, sql: Any, raw_redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """Meanwhile a second rebuild fills the generation and makes it live; the first one then reports an error."""
    await populate(engine, 24)
    rebuild = f"rebuild --partitions {LEASE_GROUPS}"
    with running("worker", environment, tmp_path):
        old = await up_to_date_view(engine, redis)
        new = View(old.generation + 1, LEASE_GROUPS)
        with running(f"{rebuild} --rate {SLOW_RATE}", environment, tmp_path) as zombie:
            await until(lambda: _has_begun(redis, new))
            zombie.send(signal.SIGSTOP)
            with running(rebuild, environment, tmp_path) as done:
                assert await asyncio.to_thread(done.child.wait, 60) == 0
            assert await up_to_date_view(engine, redis) == new
            await write(engine, (1, 2), (3, 4))
            zombie.send(signal.SIGCONT)
            assert await asyncio.to_thread(zombie.child.wait, 60) == 1
            assert re.search("^follows: .*(lost|another owner)", zombie.output(), re.MULTILINE)
        assert await up_to_date_view(engine, redis) == new
        assert actual(raw_redis, new) == expected(sql, new)


async def test_rebuild_job_of_killed_worker_is_continued_by_the_next(
    engine: Engine, redis: RedisClient, sql: Any, raw_redis: Plain, environment: dict[str, str], tmp_path: Path
) -> None:
    """It is queued once; the next worker continues it as soon as the lease has expired."""
    await populate(engine, 24)
    with running("worker", environment, tmp_path):
        old = await up_to_date_view(engine, redis)
        new = View(old.generation + 1, 16)
        words = ("rebuild", "--job", "--partitions", 16, "--rate", SLOW_RATE)
        assert follows(environment, *words) == {"queued": True}
        assert follows(environment, *words) == {"queued": False}
        with running("rebuilder", environment, tmp_path) as killed:
            await until(lambda: _has_begun(redis, new))
            shown = {row["number"]: row for row in follows(environment, "generations")}[new.generation]
            assert (shown["state"], shown["live"]) == ("building", False) and 0 < shown["position"] < shown["head"]
            killed.send(signal.SIGKILL)
        assert await generations.live_view(redis) == old
        with running("rebuilder", environment, tmp_path) as rebuilder:
            assert await until(lambda: _is_live(redis, new), 60)
            assert await up_to_date_view(engine, redis) == new
            assert actual(raw_redis, new) == expected(sql, new)
            assert rebuilder.end() == 0


async def _is_live(redis: RedisClient, view: View) -> bool:
    return await generations.live_view(redis) == view


async def test_pause_stops_every_worker_until_resume(
    engine: Engine, redis: RedisClient, environment: dict[str, str], tmp_path: Path
) -> None:
    """As soon as each worker has checked for it; `follows status` shows who paused, why and since when."""
    numbers = await people(engine, 4)
    with running("worker", environment, tmp_path), running("worker", environment, tmp_path):
        await until(lambda: shared(engine, 2))
        view = await up_to_date_view(engine, redis)
        follows(environment, "pause", "--who", "ann", "--why", "a test")
        await wait_for_renewals(engine, 3)
        before = await generations.view_position(redis, view)
        await write(engine, (numbers[0], numbers[1]))
        await wait_for_renewals(engine, 2)  # a worker that is not paused would have seen it
        assert await generations.view_position(redis, view) == before
        assert "by ann since" in follows(environment, "status", code=1)["log"]["paused"]
        assert follows(environment, "resume")["was_paused"] is True
        assert await up_to_date_view(engine, redis) == view


async def test_log_restored_from_backup_leaves_no_later_follow_in_the_view(
    servers: Servers,
    database_url: str,
    redis: RedisClient,
    raw_redis: Plain,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """After `adopt` the view is gone; then a new one comes, which never has what the log does not have."""
    database = Restored(servers, database_url)
    async with _opened(database_url) as engine:
        numbers = await people(engine, 4)
        await append(engine, numbers[0], numbers[1], UserFollowed())
    database.save()
    with running("worker", environment, tmp_path):
        async with _opened(database_url) as engine:
            await append(engine, numbers[2], numbers[3], UserFollowed())
            newer = await up_to_date_view(engine, redis)
        seen: list[tuple[View | None, bool]] = []

        async def look() -> bool:
            view = await generations.live_view(redis)
            seen.append((view, view is not None and raw_redis.exists(view.following(numbers[2])) == 1))
            return view not in (None, newer)

        assert not await look()
        looking = asyncio.create_task(until(look, 30))
        await asyncio.to_thread(database.restore)
        adopted = await asyncio.to_thread(follows, environment, "adopt", "--yes")
        assert adopted["adopted"] and not adopted["found"]["continues"]
        await looking
        async with _opened(database_url) as engine:
            view = await up_to_date_view(engine, redis)
            with psycopg.connect(database_url, autocommit=True) as sql:
                assert actual(raw_redis, view) == expected(sql, view)
        order = [view for at, (view, _) in enumerate(seen) if at == 0 or seen[at - 1][0] != view]
        assert order == [newer, None, view]
        assert not any(has_it for found, has_it in seen if found == view)


class _opened:  # noqa: N801 - read as a function
    """An engine that is disposed of at the end of the block."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(PostgresSettings(url, allow_async_commit=True))

    async def __aenter__(self) -> Engine:
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()


@pytest.fixture
async def own(breakable: BreakableServers) -> AsyncIterator[tuple[Engine, RedisClient]]:
    """An engine and a Redis client on the servers that a test may break."""
    breakable.wait_ready()
    engine, redis = (
        create_engine(PostgresSettings(breakable.postgres.url, allow_async_commit=True)),
        open_redis(RedisClientSettings(breakable.valkey.url)),
    )
    yield engine, redis
    await redis.close()
    await engine.dispose()


async def test_rebuild_job_survives_restarts_of_both_servers(
    breakable: BreakableServers, own: tuple[Engine, RedisClient], tmp_path: Path
) -> None:
    """Postgres restarts, then Valkey, in the middle of the rebuild; worker and rebuilder continue by themselves."""
    engine, redis = own
    urls = (breakable.postgres.url, breakable.valkey.url, breakable.queue_url)
    given = dict(zip(("DATABASE_URL", "REDIS_URL", "QUEUE_URL"), urls, strict=True))
    environment = {**os.environ, **given, "FOLLOWS_DATA": str(tmp_path / "none")}
    if (end := (await log.head(engine)).position) < 1_000:
        await populate(engine, 24)
        end = (await log.head(engine)).position
    with running("worker", environment, tmp_path), running("rebuilder", environment, tmp_path):
        old = await up_to_date_view(engine, redis)
        words = ("rebuild", "--job", "--partitions", LEASE_GROUPS, "--rate", end // 8)
        assert follows(environment, *words) == {"queued": True}
        new = await until(lambda: _begun_after(engine, redis, old))
        breakable.postgres.restart()
        assert (await generations.view_position(redis, new) or 0) < end
        breakable.valkey.restart()
        view = await until(lambda: _moved_on(redis, old), 60)
        assert view == new
        await until(lambda: _answers(engine))
        await append(engine, 1001, 1002, UserFollowed())
        assert await up_to_date_view(engine, redis) == view
        with psycopg.connect(breakable.postgres.url, autocommit=True) as sql, Redis.from_url(urls[1]) as raw_redis:
            assert actual(raw_redis, view) == expected(sql, view)


async def _begun_after(engine: Engine, redis: RedisClient, old: View) -> View | None:
    """Return the view that is being built; its number is not the next one, since a killed Postgres skips numbers."""
    rows = await list_generations(engine)
    building = [View(row.number, row.partitions) for row in rows if row.number > old.generation]
    return building[-1] if building and await _has_begun(redis, building[-1]) else None


async def _answers(engine: Engine) -> bool:
    """Return True if the log answers; connections from before a restart are broken."""
    try:
        await log.head(engine)
    except Unavailable:
        return False
    return True


async def _moved_on(redis: RedisClient, before: View) -> View | None:
    try:
        view = await generations.live_view(redis)
    except Unavailable:
        return None
    return None if view == before else view
