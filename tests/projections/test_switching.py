"""Readers and writers who go on during rebuild, switch and undo notice nothing: no error, no gap, no step back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import psycopg
import pytest

from commands import log
from commands.events import UserFollowed, UserUnfollowed
from commands.postgres import Engine, PostgresSettings, create_engine
from projections import building, drain, generations, standing_back, switching
from projections.catch_up import Projector
from projections.keys import APPLIED_CHANNEL, View
from projections.rebuilding import Builder, Order
from projections.standing_back import StandingBack
from projections.store import Store, StoreSettings, open_store
from projections.switching import NotSwitched
from projections.wakeup import Listener, Progress, QueueSettings, Wakeup
from queries.follows import Window, page, status
from queries.reader import Reader
from tests.commands.writing import append
from tests.opened import Plain
from tests.projections.model import actual, expected
from tests.projections.test_rebuilding import draining
from tests.projections.watching import level
from tests.projections.worlds import catch_up, people, projector_of, write
from tests.waiting import until

Sql = psycopg.Connection[Any]
# Who follows nobody but those of the test, and is followed by nobody else.
FAN, STAR = 3, 4


class Side:
    """An API process as far as this matters: it reads through what it knows of the pointer, and waits for the views."""

    def __init__(self, store: Store, queue: QueueSettings) -> None:
        self.progress = Progress()
        self.reader = Reader(store, self.progress)
        self.listener = Listener(queue, APPLIED_CHANNEL, self.progress.hear)
        self.reads = 0

    async def hammer(self, steady: dict[int, int]) -> None:
        """Read lists that never change, over and over: they are never short, empty, or an error."""
        while True:
            for number, total in steady.items():
                found = await page(self.reader, "followers", number, Window(100), named="x")
                assert (found.total, len(found.rows)) == (total, total)
                self.reads += 1

    async def write_and_read(self, engine: Engine, wakeup: Wakeup, other: "Side") -> None:
        """Follow, be told that it can be seen, see it, here and in the other process; and the same with its end."""
        follows = False
        while True:
            follows = not follows
            (written,) = await append(engine, FAN, STAR, UserFollowed() if follows else UserUnfollowed())
            wakeup.send(written.position)
            groups = [FAN % 8, STAR % 8]
            seen = await asyncio.gather(*[side.progress.wait(written.position, groups, 10) for side in (self, other)])
            assert all(seen), f"position {written.position} was never told of"
            for side in (self, other):
                found = await status(side.reader, FAN, STAR)
                assert (found.row is not None) == follows, f"position {written.position} was told of and is not seen"
                side.reads += 1


@asynccontextmanager
async def api(redis_url: str, queue_url: str) -> AsyncIterator[Side]:
    """A process that reads."""
    store = open_store(StoreSettings(redis_url))
    side = Side(store, QueueSettings(queue_url))
    await side.listener.start()
    yield side
    await side.listener.close()
    await store.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_notices_a_switch(
    engine: Engine,
    store: Store,
    sql: Sql,
    redis: Plain,
    database_url: str,
    redis_url: str,
    queue_url: str,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """P4, P5 and P6 at once: while views are rebuilt, cut anew and undone, whoever reads finds whole lists, and whoever
    was told of his follow sees it, in every process."""
    assert building.fill.__kwdefaults__ is not None
    monkeypatch.setitem(building.fill.__kwdefaults__, "batch", 20)
    numbers = await people(engine, 12)
    await write(engine, *[(fan, star) for star in (1, 2) for fan in numbers if fan not in (1, 2)])
    steady = {1: 10, 2: 10}
    queue, wakeup = QueueSettings(queue_url), Wakeup(QueueSettings(queue_url))
    async with AsyncExitStack() as stack:
        for _ in range(workers):
            own = create_engine(PostgresSettings(database_url))
            stack.push_async_callback(own.dispose)
            await stack.enter_async_context(draining(own, store, queue))
        one = await stack.enter_async_context(api(redis_url, queue_url))
        two = await stack.enter_async_context(api(redis_url, queue_url))
        await level(engine, store)
        tasks = [asyncio.create_task(side.hammer(steady)) for side in (one, two)]
        tasks.append(asyncio.create_task(one.write_and_read(engine, wakeup, two)))

        async def while_all_goes_on(work: Any) -> View:
            doing = asyncio.create_task(work)
            await asyncio.wait({doing, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                assert not task.done(), task.exception()
            view: View = await doing
            before = one.reads, two.reads
            await until(lambda: min(one.reads - before[0], two.reads - before[1]) > 20)
            assert not any(task.done() for task in tasks)
            return view

        seen = [
            await while_all_goes_on(_with_builder(engine, store, queue, lanes)) for lanes in (64, None, 16, None, 64)
        ]
        assert len({view.generation for view in seen}) == 4
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last = await level(engine, store)
        assert last == seen[-1] and actual(redis, last) == expected(sql, last)
    await wakeup.close()


async def _with_builder(engine: Engine, store: Store, queue: QueueSettings, lanes: int | None) -> View:
    """A rebuild into so many lanes, or an undo."""
    async with Builder(engine, store, queue) as builder:
        if lanes is None:
            return await builder.undo(lambda _: None)
        return await builder.rebuild(Order(lanes=lanes), lambda _: None)


async def test_a_view_that_cannot_be_held_is_not_left(
    engine: Engine, store: Store, redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody mends a lane for ever: the switch gives up, and has changed nothing."""
    monkeypatch.setattr(switching, "DONE_S", 0.05)
    monkeypatch.setattr(switching, "TRIES_MAX", 2)
    old = await projector_of(engine, store)
    await catch_up(old)
    redis.hset(old.view.checkpoint(1), "hold", "somebody:99999999999999")
    epoch = (await log.head(engine)).epoch
    new = Projector(engine, store, View(2, 8), dict.fromkeys(range(8), 9), epoch)
    await generations.prepare(store, new.view, epoch, 9)
    await new.load()
    with pytest.raises(NotSwitched):
        await switching.switch(engine, store, new)
    assert await generations.live_view(store) == old.view
    held = [redis.hget(old.view.checkpoint(lane), "hold") for lane in range(old.view.lanes)]
    assert held == [None, b"somebody:99999999999999", None, None]


async def test_a_build_stands_back_while_the_live_view_moves(
    engine: Engine, store: Store, redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is late and moves; not when it is level, and not for ever when nobody projects it."""
    monkeypatch.setattr(standing_back, "LAG_MAX_S", 0.0)
    monkeypatch.setattr(standing_back, "LOOK_S", 0.0)
    numbers = await people(engine, 6)
    live = await projector_of(engine, store)
    standing = StandingBack(engine, store)
    for fan in numbers[1:]:
        await write(engine, (fan, numbers[0]))
        assert await standing.must_wait(), "late and moving"
        await live.step(1)
        await live.settle()
    await catch_up(live)
    assert not await standing.must_wait(), "level"
    await write(engine, (numbers[1], numbers[2]))
    assert await standing.must_wait(), "late, and may move yet"
    monkeypatch.setattr(standing_back, "STUCK_S", -1.0)
    assert not await standing.must_wait(), "late, and does not move"
    await generations.forget(store)
    monkeypatch.undo()
    assert not await StandingBack(engine, store).must_wait(), "nobody to spare"


async def test_a_worker_tells_nothing_of_a_view_that_readers_have_left(
    engine: Engine, store: Store, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A builder that dies between moving readers and retiring the old view leaves a worker who still projects it: what
    he applies there, nobody sees, so he must not say that it can be seen."""
    numbers = await people(engine, 4)
    queue, wakeup = QueueSettings(queue_url), Wakeup(QueueSettings(queue_url))
    told: list[tuple[int, int]] = []

    def hear(message: bytes | None) -> None:
        if message is not None:
            position, _, generation, *_ = msgspec.json.decode(message)
            told.append((position, generation))

    listener = Listener(queue, APPLIED_CHANNEL, hear)
    await listener.start()
    async with draining(engine, store, queue):
        old = await level(engine, store)
        monkeypatch.setattr(drain, "IDLE_S", 600.0)
        new = View(old.generation + 1, 8)
        async with building.BuildLease(engine):  # else the worker, who has just built, may take it for rubbish
            await generations.prepare(store, new, (await log.head(engine)).epoch, 0)
            assert await generations.switch(store, new, 2**40)
        end = await write(engine, (numbers[0], numbers[1]))
        wakeup.send(end)
        assert await level(engine, store) == new
        await until(lambda: (end, new.generation) in told)
        assert (end, old.generation) not in told
    await listener.close()
    await wakeup.close()
