"""The worker as it runs, a process with arq under its supervisor, on real servers that come and go."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from commands.directory import Directory
from commands.events import UserFollowed
from commands.postgres import Engine
from projections import generations
from projections.evictions import mend_evictions
from projections.guard import read_mended
from projections.keys import EVICTIONS, View
from projections.store import Store, StoreSettings, open_store
from projections.wakeup import QueueSettings, Wakeup
from tests.breakable import Breakable
from tests.commands.writing import append, register
from tests.projections.dropping import drop_some
from tests.projections.model import actual, expected
from tests.projections.watching import level
from tests.projections.worlds import populate
from tests.servers import STOP_LIMIT_S
from tests.waiting import until


class Worker:
    """A running worker and what it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    def says(self, words: str) -> bool:
        """Whether it has said these words."""
        return words in self._log.read_text()


@contextmanager
def working(database_url: str, valkey: Breakable, folder: Path) -> Iterator[Worker]:
    """A worker that has both its queue and the views in one Valkey; SIGTERM ends it in good order."""
    urls = {"DATABASE_URL": database_url, "REDIS_URL": valkey.url, "QUEUE_URL": queue_of(valkey).queue_url}
    said = folder / "worker.log"
    with said.open("wb") as output:
        command = [sys.executable, "-m", "workers"]
        process = subprocess.Popen(command, env={**os.environ, **urls}, stdout=output, stderr=output)
    try:
        yield Worker(process, said)
        assert process.poll() is None, said.read_text()
        process.terminate()
        assert process.wait(STOP_LIMIT_S) == 0, said.read_text()
        assert "Traceback" not in said.read_text(), said.read_text()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def queue_of(valkey: Breakable) -> QueueSettings:
    """The queue's database of that Valkey."""
    return QueueSettings(valkey.url.replace("db=0", "db=1"))


async def test_a_worker_projects_erases_and_survives_its_redis(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """From an empty start: the view is built and kept level; an erasure is carried out; Valkey is killed and comes
    back, then comes back empty: each time the worker goes on by itself."""
    store, wakeup = open_store(StoreSettings(fragile.url)), Wakeup(queue_of(fragile))
    one, two, three = await register(engine, "a", "b", "c")
    with Redis.from_url(fragile.url) as redis, working(database_url, fragile, tmp_path):
        redis.flushall()
        await append(engine, one, two, UserFollowed())
        await append(engine, three, one, UserFollowed())
        first = await level(engine, store)
        assert actual(redis, first) == expected(sql, first)

        wakeup.send(await Directory(engine).erase("a"))
        await until(lambda: not redis.exists(first.followers(two), first.following(three)))
        assert actual(redis, await level(engine, store)) == expected(sql, first)

        fragile.restart()
        await append(engine, two, three, UserFollowed())
        await until(lambda: redis.exists(first.following(two)))
        assert actual(redis, await level(engine, store)) == expected(sql, first)

        redis.flushall()
        await append(engine, three, two, UserFollowed())
        second = await level(engine, store)
        assert second.generation > first.generation and actual(redis, second) == expected(sql, second)
    await wakeup.close()
    await store.close()


async def test_a_worker_waits_for_a_redis_that_is_not_there_yet(
    engine: Engine, database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """It tries again, ever more slowly, and is at work soon after."""
    store = open_store(StoreSettings(fragile.url))
    await append(engine, 1, 2, UserFollowed())
    with Redis.from_url(fragile.url) as redis:
        redis.flushall()
    fragile.kill()
    with working(database_url, fragile, tmp_path) as worker:
        await until(lambda: worker.says("it starts again"))
        fragile.start()
        await level(engine, store)
    await store.close()


def test_a_worker_that_must_not_start_says_why(
    database_url: str, fragile: Breakable, sql: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """A setting that would lose data is no outage to be waited out: one line, and an exit code."""
    sql.execute("UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(AssertionError, match="older") as ended, working(database_url, fragile, tmp_path) as worker:
        worker.process.wait(STOP_LIMIT_S)
    assert worker.process.returncode == 1 and "Traceback" not in str(ended.value)


async def test_views_of_which_redis_has_dropped_keys_are_built_anew(
    engine: Engine, sql: psycopg.Connection[Any], database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """As soon as there is room for them, with nobody's help; once, and what is left of the others is gone."""
    store = open_store(StoreSettings(fragile.url))
    await populate(engine)
    with Redis.from_url(fragile.url) as redis:
        redis.flushall()
        with working(database_url, fragile, tmp_path) as worker:
            before = await level(engine, store)
            dropped = drop_some(redis)
            await until(lambda: worker.says("set its maxmemory-policy to noeviction"))
            redis.delete(*redis.keys("somebody else's*"))
            await until(lambda: dropped in read_mended(redis.get(EVICTIONS)).values())
            await until(lambda: _is_another(store, before))
            view = await level(engine, store)
            assert actual(redis, view) == expected(sql, view)
            assert not await mend_evictions(engine, store)
            assert await generations.found(store) == [view]
        redis.config_set("maxmemory", 0)
        redis.config_resetstat()
    await store.close()


async def _is_another(store: Store, view: View) -> bool:
    return await generations.live_view(store) not in (None, view)


async def test_a_server_that_is_set_wrong_meanwhile_is_waited_for(
    engine: Engine, database_url: str, fragile: Breakable, tmp_path: Path
) -> None:
    """What would be refused at the start is only refused while it lasts: nobody is there to start the worker again."""
    store = open_store(StoreSettings(fragile.url))
    await append(engine, 1, 2, UserFollowed())
    with Redis.from_url(fragile.url) as redis:
        redis.flushall()
        with working(database_url, fragile, tmp_path) as worker:
            await level(engine, store)
            redis.config_set("maxmemory-policy", "allkeys-lru")
            redis.config_set("maxmemory", 1)  # ends arq
            await until(lambda: worker.says("set it to noeviction"))
            redis.config_set("maxmemory", 0)
            redis.config_set("maxmemory-policy", "noeviction")
            await append(engine, 3, 4, UserFollowed())
            await level(engine, store)
    await store.close()
