"""Actions of an operator on a running service (rebuild, undo, prune, repair, pause), and faults: a killed projection
loop, a lost Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from redis import Redis

from commands.coordination import parked, pause
from commands.db.postgres import Engine, PostgresSettings, create_engine
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.errors import RebuildRefused
from projections.keys import View
from projections.loop import ProjectionLoop
from projections.rebuild.rebuild import Builder, RebuildOptions
from projections.signals.job_queue import QueueSettings
from projections.verify.compare import verify
from projections.verify.repair import rebuild_users
from projections.verify.retry_parked import retry
from projections.views.generations import live_view
from tests.support.in_process import InProcess, in_process, soon

PARTITIONS: Final = (8, 16)


class Operator:
    """Operator actions and faults on a running service; when a call returns, readers get right answers again."""

    def __init__(self, service: InProcess, engine: Engine, redis: RedisClient, settings: dict[str, str]) -> None:
        self.service, self._engine, self._redis = service, engine, redis
        self._queue = QueueSettings(settings["QUEUE_URL"])
        self._settings = settings
        self._raw_redis: Any = Redis.from_url(settings["REDIS_URL"])
        self._saved: dict[bytes, bytes] = {}
        self._loops: list[tuple[ProjectionLoop, asyncio.Task[None]]] = []

    async def rebuild(self, partitions: int, *, verified: bool) -> None:
        """Build a new generation with this number of partitions, and switch to it."""
        async with Builder(self._engine, self._redis, self._queue) as builder:
            await builder.rebuild(RebuildOptions(partitions=partitions, verify=verified), lambda _: None)

    async def undo(self) -> bool:
        """Switch back to the previous generation; return False if there is none."""
        async with Builder(self._engine, self._redis, self._queue) as builder:
            with suppress(RebuildRefused):
                await builder.undo(lambda _: None)
                return True
        return False

    async def prune(self) -> None:
        """Delete old generations."""
        async with Builder(self._engine, self._redis, self._queue) as builder:
            await builder.prune()

    async def break_and_repair(self, numbers: list[int], rng: random.Random) -> None:
        """Delete or change a list of each user, repair, and check that verify finds no difference."""
        view = await self._view()
        for number in numbers:
            key = rng.choice((view.following(number), view.followers(number)))
            await rng.choice((self._lose_list, self._change_first))(key)
        await rebuild_users(self._engine, self._redis, view, numbers)
        found: list[Any] = []

        async def tell(differences: list[Any]) -> None:
            found.extend(differences)

        await verify(self._engine, self._redis, view, tell, numbers=numbers)
        assert not found, found

    async def pause_during(self, commands: Iterable[Awaitable[Any]]) -> list[Any]:
        """Send commands while the projection is paused, resume it, and return their answers."""
        await pause.pause_projection(self._engine, "proof", "to see what happens")
        under_way = asyncio.gather(*commands)
        await asyncio.sleep(0)
        await pause.resume_projection(self._engine)
        return await under_way

    async def park_and_retry(self, pair: tuple[int, int]) -> None:
        """Append a follow that the code cannot read, wait until it is parked, make it readable, and retry it."""
        database = self._settings["DATABASE_URL"]
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as sql:
            rows = await sql.execute(
                """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
                SELECT nextval('events_position'), %(one)s, %(other)s, coalesce(max(version), 0) + 1, 'UserFollowed',
                next_recorded_at(), '{"notifications": 5}' FROM events WHERE subject = %(one)s AND object = %(other)s
                RETURNING position""",
                {"one": pair[0], "other": pair[1]},
            )
            [(position,)] = await rows.fetchall()
            await soon(self._is_parked)
            await sql.execute("SET session_replication_role = replica")
            await sql.execute("UPDATE events SET data = NULL WHERE position = %s", [position])
        await retry(self._engine, self._redis, await self._view(), *pair)

    def save(self) -> None:
        """Save a dump of Redis for ``lose_redis``."""
        self._saved = {key: self._raw_redis.dump(key) for key in self._raw_redis.scan_iter(count=1000)}

    def lose_redis(self, *, restored: bool) -> None:
        """Empty Redis, or restore the last dump."""
        self._raw_redis.flushdb()
        for key, value in self._saved.items() if restored else ():
            self._raw_redis.restore(key, 0, value or b"", replace=True)

    def start_loop(self) -> None:
        """Start a worker's projection loop on the operator's connections."""
        loop = ProjectionLoop(self._engine, self._redis, self._queue)
        self._loops.append((loop, asyncio.create_task(loop.run())))

    async def kill_loop(self) -> None:
        """Kill the loop at whatever step it is. It releases no lease, so its successor waits until they expire."""
        loop, task = self._loops.pop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await loop.healer.close()
        await loop._listener.close()
        await loop._wakeup.close()
        self.start_loop()

    async def close(self) -> None:
        """Stop the loops and close the connections."""
        for loop, task in self._loops:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await loop.close()
        self._raw_redis.close()

    async def _view(self) -> View:
        view = await live_view(self._redis)
        assert view is not None
        return view

    async def _is_parked(self) -> bool:
        return bool(await parked.read_parked(self._engine))

    async def _lose_list(self, key: str) -> None:
        await self._redis.call("DEL", key)

    async def _change_first(self, key: str) -> None:
        for name in await self._redis.call("ZRANGE", key, 0, 0):
            await self._redis.call("ZINCRBY", key, 1, name)


@asynccontextmanager
async def operated(settings: dict[str, str], keys: Path) -> AsyncIterator[Operator]:
    """Yield the operator of a service that runs in this process, with one projection loop."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(in_process(settings, keys, with_loop=False))
        engine = create_engine(PostgresSettings(settings["DATABASE_URL"], allow_async_commit=True))
        stack.push_async_callback(engine.dispose)
        redis = open_redis(RedisClientSettings(settings["REDIS_URL"]))
        stack.push_async_callback(redis.close)
        operator = Operator(service, engine, redis, settings)
        stack.push_async_callback(operator.close)
        operator.start_loop()
        await service.ready()
        yield operator
