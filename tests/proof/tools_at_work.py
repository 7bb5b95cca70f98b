"""A service whose drains can be killed, and whose operator rebuilds, undoes, repairs, pauses, mends and loses Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
from redis import Redis

from commands import log, parking, pauses
from commands.errors import Unavailable
from commands.postgres import Engine, PostgresSettings, create_engine
from projections.catch_up import Broken, Fenced, ViewLost
from projections.drain import Drain
from projections.generations import live_view
from projections.keys import View
from projections.rebuilding import Builder, Order, RebuildRefused
from projections.repairing import rebuild_users
from projections.store import Store, StoreSettings, open_store
from projections.unparking import retry
from projections.verifying import verify
from projections.wakeup import QueueSettings
from tests.api.in_process import InProcess, in_process, soon

# What passes, and is tried again: the views were just emptied, or a worker that was killed holds its lanes for a while.
PASSING: Final = (Unavailable, ViewLost, Fenced, Broken)
LANES: Final = (8, 16)
TRIES: Final = 20


class Operator:
    """Tools and faults on a running service; after each, readers see the truth again when it returns."""

    def __init__(self, service: InProcess, engine: Engine, store: Store, settings: dict[str, str]) -> None:
        self.service, self._engine, self._store = service, engine, store
        self._queue = QueueSettings(settings["QUEUE_URL"])
        self._settings = settings
        self._redis: Any = Redis.from_url(settings["REDIS_URL"])
        self._saved: dict[bytes, bytes] = {}
        self._drains: list[tuple[Drain, asyncio.Task[None]]] = []

    async def rebuild(self, lanes: int, *, verified: bool) -> None:
        """A new generation beside the live one, with another number of lanes, and the switch."""
        async with Builder(self._engine, self._store, self._queue) as builder:
            await builder.rebuild(Order(lanes=lanes, verify=verified), lambda _: None)

    async def undo(self) -> bool:
        """Back to the generation before, if there is one to go back to."""
        async with Builder(self._engine, self._store, self._queue) as builder:
            with suppress(RebuildRefused):
                await builder.undo(lambda _: None)
                return True
        return False

    async def prune(self) -> None:
        """Old generations go."""
        async with Builder(self._engine, self._store, self._queue) as builder:
            await builder.prune()

    async def break_and_repair(self, numbers: list[int], chance: random.Random) -> None:
        """Cells of some lists are lost or wrong; the repair finds and mends them all."""
        view = await self._view()
        for number in numbers:
            key = chance.choice((view.following(number), view.followers(number)))
            await chance.choice((self._lose_list, self._change_first))(key)
        await rebuild_users(self._engine, self._store, view, numbers)
        found: list[Any] = []

        async def tell(differences: list[Any]) -> None:
            found.extend(differences)

        await verify(self._engine, self._store, view, tell, numbers=numbers)
        assert not found, found

    async def pause_during(self, commands: Iterable[Awaitable[Any]]) -> list[Any]:
        """Commands while the projection is paused; they are answered when it goes on."""
        await pauses.pause(self._engine, "proof", "to see what happens")
        under_way = asyncio.gather(*commands)
        await asyncio.sleep(0)
        await pauses.resume(self._engine)
        return await under_way

    async def park_and_retry(self, pair: tuple[int, int]) -> None:
        """A follow that this version cannot read is written and parked; a new version can, and the pair is let go."""
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
        await retry(self._engine, self._store, await self._view(), *pair)

    def save(self) -> None:
        """A dump of Redis as it is now."""
        self._saved = {key: self._redis.dump(key) for key in self._redis.scan_iter(count=1000)}

    def lose_redis(self, *, restored: bool) -> None:
        """It comes back empty, or as it was when it was saved."""
        self._redis.flushdb()
        for key, value in self._saved.items() if restored else ():
            self._redis.restore(key, 0, value or b"", replace=True)

    def start_drain(self) -> None:
        """A worker's drain, with connections that it shares with the operator."""
        drain = Drain(self._engine, self._store, self._queue, uuid4())
        self._drains.append((drain, asyncio.create_task(drain.run(86_400))))

    async def kill_drain(self) -> None:
        """In the middle of what it does; it gives nothing back, so a successor waits until its leases run out."""
        drain, task = self._drains.pop()
        under_way = [each for each in (task, drain._building) if each is not None]
        for each in under_way:
            each.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await drain._listener.close()
        await drain._wakeup.close()
        self.start_drain()

    async def close(self) -> None:
        """The drains end well."""
        for drain, task in self._drains:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await drain.close()
        self._redis.close()

    async def _view(self) -> View:
        view = await live_view(self._store)
        assert view is not None
        return view

    async def _is_parked(self) -> bool:
        return bool(await parking.parked(self._engine))

    async def _lose_list(self, key: str) -> None:
        await self._store.call("DEL", key)

    async def _change_first(self, key: str) -> None:
        for name in await self._store.call("ZRANGE", key, 0, 0):
            await self._store.call("ZINCRBY", key, 1, name)


async def head_of(service: InProcess) -> int:
    """The log's end."""
    return (await log.head(service.parts.engine)).position


@asynccontextmanager
async def operated(settings: dict[str, str], keys: Path) -> AsyncIterator[Operator]:
    """The service in this process with one drain, and its operator."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(in_process(settings, keys, drain=False))
        engine = create_engine(PostgresSettings(settings["DATABASE_URL"]))
        stack.push_async_callback(engine.dispose)
        store = open_store(StoreSettings(settings["REDIS_URL"]))
        stack.push_async_callback(store.close)
        operator = Operator(service, engine, store, settings)
        stack.push_async_callback(operator.close)
        operator.start_drain()
        await service.ready()
        yield operator
