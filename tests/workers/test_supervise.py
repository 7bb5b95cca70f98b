"""The worker process on real servers that come and go."""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from arq import func
from arq.connections import ArqRedis
from arq.worker import Worker
from redis import Redis

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.errors import SettingsError
from commands.events import UserFollowed
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.keys import View
from projections.signals.job_queue import QueueSettings, enqueue_rebuild
from projections.signals.wakeups import Wakeup
from projections.views import generations
from projections.views.leftovers import leftovers
from tests.support.breakable_servers import Breakable
from tests.support.evictions import evict_some, remove_ballast
from tests.support.live_view import up_to_date_view
from tests.support.log_writes import append, register, rows
from tests.support.queues import queue_of
from tests.support.read_only import read_only
from tests.support.resetting_server import resetting_server
from tests.support.running_worker import queue_in, working
from tests.support.servers import STOP_TIMEOUT_S, Servers
from tests.support.small_world import populate
from tests.support.view_model import actual, expected
from tests.support.waiting import until
from workers.jobs import wake
from workers.supervise import ARQ_PAUSE_MIN_S, repeat, run_arq

PAUSE_S: Final = 0.1


async def test_worker_projects_erases_and_survives_outages_of_its_redis(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """The view is built and kept up to date; an erasure is carried out. Valkey is killed and comes back, then is
    emptied: each time the worker goes on by itself."""
    redis, wakeup = open_redis(RedisClientSettings(fragile.url)), Wakeup(queue_in(fragile.url))
    one, two, three = await register(engine, "a", "b", "c")
    with Redis.from_url(fragile.url) as raw_redis, working(database_url, fragile.url, tmp_path):
        raw_redis.flushall()
        await append(engine, one, two, UserFollowed())
        await append(engine, three, one, UserFollowed())
        first = await up_to_date_view(engine, redis)
        assert actual(raw_redis, first) == expected(sql, first)

        wakeup.send((await Directory(engine).erase("a")).position)
        await until(lambda: not raw_redis.exists(first.followers(two), first.following(three)))
        assert actual(raw_redis, await up_to_date_view(engine, redis)) == expected(sql, first)

        fragile.restart()
        await append(engine, two, three, UserFollowed())
        await until(lambda: raw_redis.exists(first.following(two)))
        assert actual(raw_redis, await up_to_date_view(engine, redis)) == expected(sql, first)

        raw_redis.flushall()
        await append(engine, three, two, UserFollowed())
        second = await up_to_date_view(engine, redis)
        assert second.generation > first.generation and actual(raw_redis, second) == expected(sql, second)
    await wakeup.close()
    await redis.close()


async def test_worker_waits_for_a_redis_that_is_not_there_yet(
    engine: Engine, database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """It tries again and again, and projects as soon as Redis is there."""
    redis = open_redis(RedisClientSettings(fragile.url))
    await append(engine, 1, 2, UserFollowed())
    with Redis.from_url(fragile.url) as raw_redis:
        raw_redis.flushall()
    fragile.kill()
    with working(database_url, fragile.url, tmp_path) as worker:
        await until(lambda: worker.has_logged("the worker cannot start yet"))
        fragile.start()
        await up_to_date_view(engine, redis)
    await redis.close()


async def test_worker_without_queue_projects(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """The queue's Redis need not be that of the views, and is away from the start."""
    redis = open_redis(RedisClientSettings(fragile.url))
    with Redis.from_url(fragile.url) as raw_redis:
        raw_redis.flushall()
        with working(database_url, fragile.url, tmp_path, "unix:///nowhere.sock?db=1") as worker:
            for other in (2, 3):
                await append(engine, 1, other, UserFollowed())
                view = await up_to_date_view(engine, redis)
                assert actual(raw_redis, view) == expected(sql, view)
            await until(lambda: worker.has_logged("no jobs: the queue does not answer"))
    await redis.close()


def test_worker_with_a_wrong_setting_ends_with_one_line(
    database_url: str, fragile: Breakable, sql: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """A setting that would lose data is not an outage that passes: one line, and exit code 1."""
    sql.execute("UPDATE follows_version SET version_num = '9002_later', compatible_with = '9001_newer'")
    with (
        pytest.raises(AssertionError, match=r"newer than this version.*upgrade this process") as ended,
        working(database_url, fragile.url, tmp_path) as worker,
    ):
        worker.process.wait(STOP_TIMEOUT_S)
    assert worker.process.returncode == 1 and "Traceback" not in str(ended.value)


async def test_worker_that_has_worked_goes_on_with_a_newer_schema(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """What a start checks is not checked again when the views' and the queue's Redis has been away."""
    redis = open_redis(RedisClientSettings(fragile.url))
    with Redis.from_url(fragile.url) as raw_redis:
        raw_redis.flushall()
        with working(database_url, fragile.url, tmp_path) as worker:
            await append(engine, 1, 2, UserFollowed())
            await up_to_date_view(engine, redis)
            sql.execute("UPDATE follows_version SET version_num = '9002_later', compatible_with = '9001_newer'")
            fragile.restart()
            await append(engine, 1, 3, UserFollowed())
            view = await up_to_date_view(engine, redis)
            assert actual(raw_redis, view) == expected(sql, view)
            assert worker.count_logged("ERROR") == 0 and worker.count_logged("WARNING") <= 10
    await redis.close()


@pytest.mark.parametrize(
    "failure", [None, ValueError("a bug"), SettingsError("wrong"), OSError("away"), asyncio.CancelledError()], ids=repr
)
async def test_pause_is_kept_whatever_ends_the_work(failure: BaseException | None) -> None:
    """Also something that was cancelled inside: the task goes on until it is told to end."""
    calls: list[float] = []

    async def work() -> None:
        calls.append(time.monotonic())
        if failure is not None:
            raise failure

    task = asyncio.create_task(repeat("a test", work, PAUSE_S))
    await until(lambda: len(calls) >= 4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() and calls[3] - calls[0] >= 3 * PAUSE_S


async def test_arq_that_ends_by_itself_is_started_again_after_a_pause(queue_url: str) -> None:
    """A worker in burst mode ends when there is nothing to do."""
    starts: list[float] = []

    def make(queue: ArqRedis) -> Worker:
        starts.append(time.monotonic())
        return Worker([func(wake, name="wake")], redis_pool=queue, burst=True, handle_signals=False)

    task = asyncio.create_task(run_arq(queue_of(queue_url), make))
    await until(lambda: len(starts) >= 4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() and starts[3] - starts[0] >= 3 * ARQ_PAUSE_MIN_S


async def test_evicted_view_is_replaced(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """The next view is built as soon as there is room for it, once, and the keys of the other are deleted."""
    redis = open_redis(RedisClientSettings(fragile.url))
    await populate(engine)
    with Redis.from_url(fragile.url) as raw_redis:
        raw_redis.flushall()
        with working(database_url, fragile.url, tmp_path) as worker:
            before = await up_to_date_view(engine, redis)
            evict_some(raw_redis)
            await until(lambda: worker.has_logged("set its maxmemory-policy to noeviction"))
            remove_ballast(raw_redis)
            await until(lambda: _is_another(redis, before))
            view = await up_to_date_view(engine, redis)
            assert actual(raw_redis, view) == expected(sql, view)
            assert await leftovers(redis) == [view]
        remove_ballast(raw_redis)
        raw_redis.config_resetstat()
    await redis.close()


async def _is_another(redis: RedisClient, view: View) -> bool:
    return await generations.live_view(redis) not in (None, view)


async def test_worker_survives_a_policy_that_is_wrong_for_a_while(
    engine: Engine, database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """The process does not end, as at a start: it goes on when the policy is right again."""
    redis = open_redis(RedisClientSettings(fragile.url))
    await append(engine, 1, 2, UserFollowed())
    with Redis.from_url(fragile.url) as raw_redis:
        raw_redis.flushall()
        with working(database_url, fragile.url, tmp_path) as worker:
            await up_to_date_view(engine, redis)
            raw_redis.config_set("maxmemory-policy", "allkeys-lru")
            raw_redis.config_set("maxmemory", 1)
            await until(lambda: worker.has_logged("set it to noeviction"))
            raw_redis.config_set("maxmemory", 0)
            raw_redis.config_set("maxmemory-policy", "noeviction")
            await append(engine, 3, 4, UserFollowed())
            await up_to_date_view(engine, redis)
    await redis.close()


async def test_worker_survives_a_redis_that_resets_its_connections(
    engine: Engine, database_url: str, redis_url: str, server_path: str, tmp_path: Path
) -> None:
    """Both while it starts and later. Each part of it logs one line for an outage, not one for each try."""
    redis = open_redis(RedisClientSettings(redis_url))
    database = redis_url.partition("db=")[2]
    with resetting_server(server_path) as server:
        url = f"redis://127.0.0.1:{server.port}/{database}"
        with working(database_url, url, tmp_path, url) as worker:
            await until(lambda: server.connections > 4)
            server.forward()
            await append(engine, 1, 2, UserFollowed())
            await up_to_date_view(engine, redis)
            await until(lambda: worker.has_logged("the worker has started"))
            assert worker.count_logged("WARNING") <= 3
            server.reset()
            seen = server.connections
            await until(lambda: server.connections > seen + 15)
            server.forward()
            await append(engine, 2, 3, UserFollowed())
            await up_to_date_view(engine, redis)
            await until(lambda: worker.has_logged("jobs run"))
            assert worker.count_logged("WARNING") <= 10
    await redis.close()


async def test_rebuilder_survives_a_redis_that_resets_its_connections(
    engine: Engine, database_url: str, redis_url: str, server_path: str, tmp_path: Path
) -> None:
    """Once Redis is there it does the rebuild that it is asked for."""
    redis = open_redis(RedisClientSettings(redis_url))
    database = redis_url.partition("db=")[2]
    with resetting_server(server_path) as server:
        url = f"redis://127.0.0.1:{server.port}/{database}"
        with working(database_url, url, tmp_path, url, ["rebuilds"]) as worker:
            await until(lambda: server.connections > 6)
            server.forward()
            await enqueue_rebuild(engine, QueueSettings(redis_url), {})
            await until(lambda: generations.live_view(redis))
            assert worker.count_logged("WARNING") <= 3
    await redis.close()


def sessions_so_far(servers: Servers, url: str) -> int:
    """Return how many sessions the database has had."""
    name = url.partition("@/")[2].partition("?")[0]
    with psycopg.connect(servers.database, autocommit=True) as sql:
        ((count,),) = rows(sql, "SELECT sessions FROM pg_stat_database WHERE datname = %s", [name])
    return int(count)


async def test_worker_logs_one_line_when_postgres_takes_no_writes_and_one_when_it_does(
    engine: Engine, database_url: str, servers: Servers, redis_url: str, queue_url: str, tmp_path: Path
) -> None:
    """No traceback, and the projection goes on by itself."""
    redis = open_redis(RedisClientSettings(redis_url))
    with working(database_url, redis_url, tmp_path, queue_url) as worker:
        await append(engine, 1, 2, UserFollowed())
        await up_to_date_view(engine, redis)
        with read_only(database_url):
            await until(lambda: worker.has_logged("takes no writes"))
            before = sessions_so_far(servers, database_url)
            await until(lambda: sessions_so_far(servers, database_url) > before + 5)
        await until(lambda: worker.has_logged("the worker works again"))
        await append(engine, 1, 3, UserFollowed())
        await up_to_date_view(engine, redis)
        assert worker.count_logged("takes no writes now") == worker.count_logged("works again") == 1
    await redis.close()
