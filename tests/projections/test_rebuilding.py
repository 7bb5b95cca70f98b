"""Rebuilding: nothing readers see changes until it is complete and verified; then one step, and a way back (P6)."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands import generations as register
from commands import leases, log
from commands.postgres import Engine
from projections import building, generations, switching
from projections import drain as drain_module
from projections.building import BuildRunning, Progress
from projections.catch_up import Fenced
from projections.drain import Drain
from projections.estimating import estimate
from projections.keys import View
from projections.rebuilding import Builder, Order, RebuildRefused, Show, known_generations
from projections.store import Store
from projections.wakeup import QueueSettings
from tests.commands.writing import rows
from tests.opened import Plain
from tests.projections.model import actual, expected, positions
from tests.projections.watching import level
from tests.projections.worlds import populate, write
from tests.waiting import until

Sql = psycopg.Connection[Any]


class Killed(BaseException):
    """What a kill -9 looks like from inside."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes many steps, between which it can be looked at and can die; workers look around often."""
    assert building.fill.__kwdefaults__ is not None
    monkeypatch.setitem(building.fill.__kwdefaults__, "batch", 7)
    monkeypatch.setattr(drain_module, "IDLE_S", 0.05)


@pytest.fixture
def queue(queue_url: str) -> QueueSettings:
    """Where the wake-ups go."""
    return QueueSettings(queue_url)


@asynccontextmanager
async def draining(engine: Engine, store: Store, queue: QueueSettings) -> AsyncIterator[Drain]:
    """A worker's drain until the block ends."""
    drain = Drain(engine, store, queue, uuid4())
    task = asyncio.create_task(drain.run(600))
    try:
        yield drain
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await drain.close()


async def built(engine: Engine, store: Store, queue: QueueSettings) -> View:
    """A live view of a world in which everything has happened, kept by nobody."""
    await populate(engine)
    return await rebuilt(engine, store, queue)


async def rebuilt(
    engine: Engine, store: Store, queue: QueueSettings, order: Order | None = None, show: Show = lambda _: None
) -> View:
    """What ``follows rebuild`` does."""
    async with Builder(engine, store, queue) as builder:
        return await builder.rebuild(order or Order(), show)


async def undone(engine: Engine, store: Store, queue: QueueSettings) -> View:
    """What ``follows undo-switch`` does."""
    async with Builder(engine, store, queue) as builder:
        return await builder.undo(lambda _: None)


async def states(engine: Engine) -> dict[int, str]:
    """What the register knows."""
    return {known.number: known.state for known in await register.registered(engine)}


async def test_a_rebuild_equals_the_view_that_grew(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings
) -> None:
    """The same keys with the same content, under another number; the one before is kept, with all it holds."""
    async with draining(engine, store, queue):
        await populate(engine)
        grown = await level(engine, store)
    before = actual(redis, grown)
    view = await rebuilt(engine, store, queue)
    assert view.generation == grown.generation + 1 and await generations.live_view(store) == view
    assert actual(redis, view) == expected(sql, view)
    assert actual(redis, grown) == before
    assert await states(engine) == {grown.generation: "old", view.generation: "live"}


async def test_readers_see_the_old_view_until_the_new_one_is_whole(
    engine: Engine, store: Store, redis: Plain, queue: QueueSettings
) -> None:
    """Between any two steps of the build."""
    old = await built(engine, store, queue)
    before, seen = actual(redis, old), []

    def look(_: Progress) -> None:
        seen.append(redis.get("follows:view"))
        assert actual(redis, old) == before

    new = await rebuilt(engine, store, queue, show=look)
    assert len(seen) > 5 and len(set(seen)) == 1 and await generations.live_view(store) == new


@pytest.mark.parametrize("seed", range(3))
async def test_a_rebuild_that_is_killed_over_and_over_is_gone_on_with(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings, seed: int
) -> None:
    """At random points, with writes in between: one generation is filled, none is begun anew, and it equals the log."""
    old = await built(engine, store, queue)
    choice = random.Random(seed)
    numbers = list(range(1, 12))
    for _ in range(4):
        left = choice.randint(1, 6)

        def count(_: Progress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        with pytest.raises(Killed):
            await rebuilt(engine, store, queue, show=count)
        assert await generations.live_view(store) == old
        await write(engine, *[tuple(choice.sample(numbers, 2)) for _ in range(2)])  # type: ignore[arg-type]
    view = await rebuilt(engine, store, queue)
    assert view.generation == old.generation + 1 and actual(redis, view) == expected(sql, view)


@pytest.mark.parametrize("step", ["switch", "retire", "mark"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_a_kill_at_the_switch_leaves_one_view_or_the_other(
    engine: Engine,
    store: Store,
    sql: Sql,
    redis: Plain,
    queue: QueueSettings,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    done: bool,
) -> None:
    """Whole either way; workers go on with it, and the next rebuild neither removes nor resumes what is seen."""
    old = await built(engine, store, queue)
    place = switching if step == "mark" else generations
    real = getattr(place, step)

    async def dies(*arguments: Any) -> None:
        if done:
            await real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, step, dies)
        with pytest.raises(Killed):
            await rebuilt(engine, store, queue)
    seen = await generations.live_view(store)
    assert seen is not None and (seen == old) == (step == "switch" and not done)
    await write(engine, (1, 2))
    async with draining(engine, store, queue):
        assert await level(engine, store) == seen
        assert actual(redis, seen) == expected(sql, seen)
    last = await rebuilt(engine, store, queue)
    assert last.generation > seen.generation
    assert actual(redis, last) == expected(sql, last)
    assert (await states(engine))[last.generation] == "live"


async def test_a_zombie_cannot_move_readers(engine: Engine, store: Store, queue: QueueSettings) -> None:
    """A builder that sleeps through its lease at the very switch wakes up to find that others have decided since."""
    await built(engine, store, queue)
    stale = await leases.next_fence(engine)
    newer = await rebuilt(engine, store, queue)
    assert not await generations.switch(store, View(77, 64), stale)
    assert not await generations.retire(store, newer, 0)
    assert await generations.live_view(store) == newer
    assert (await generations.checkpoints(store, newer, [0]))[0] is not None


async def test_a_builder_that_lost_its_lease_stops(
    engine: Engine, store: Store, queue: QueueSettings, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has it now: what the first one still does is fenced, and readers are not moved."""
    monkeypatch.setattr(building, "RENEW_S", 0.01)
    old = await built(engine, store, queue)
    async with Builder(engine, store, queue) as first:
        sql.execute("UPDATE leases SET owner = %s, fence = nextval('fences') WHERE name = 'rebuild'", [uuid4()])

        async def stopped() -> bool:
            try:
                await first.held()
            except Fenced:
                return True
            return False

        await until(stopped)
        with pytest.raises(Fenced):
            await first.rebuild(Order(), lambda _: None)
    assert await generations.live_view(store) == old


async def test_there_is_one_rebuild_at_a_time(engine: Engine, store: Store, queue: QueueSettings) -> None:
    """The second is told so, whatever it wants."""
    async with Builder(engine, store, queue):
        with pytest.raises(BuildRunning):
            await rebuilt(engine, store, queue)


async def test_a_view_that_differs_from_the_log_is_not_shown(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings
) -> None:
    """One entry is enough. Readers see what they saw, the register says why; once mended it can be gone on with."""
    old = await built(engine, store, queue)
    key = View(old.generation + 1, old.lanes).followers(1)
    kept: list[tuple[bytes, float]] = []

    def lose_one(progress: Progress) -> None:
        if progress.position == progress.head and not kept:
            kept.extend(redis.zrange(key, 0, 0, withscores=True))
            redis.zrem(key, kept[0][0])

    with pytest.raises(RebuildRefused, match="differs from the log in 1 places"):
        await rebuilt(engine, store, queue, show=lose_one)
    assert await generations.live_view(store) == old
    refused = (await register.registered(engine))[-1]
    assert refused.state == "building" and "differs" in refused.reason
    with pytest.raises(RebuildRefused):
        await rebuilt(engine, store, queue)
    redis.zadd(key, {kept[0][0]: kept[0][1]})
    assert (await rebuilt(engine, store, queue)).generation == refused.number


async def test_fillers_share_the_lanes(
    engine: Engine,
    store: Store,
    sql: Sql,
    redis: Plain,
    queue: QueueSettings,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes fill half of the lanes each; together it is the log."""
    await populate(engine)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    view = await rebuilt(engine, store, queue, Order(workers=2, verify=False))
    assert actual(redis, view) == expected(sql, view)


async def test_a_rate_is_kept(engine: Engine, store: Store, queue: QueueSettings) -> None:
    """All over the build, not only between two batches."""
    await populate(engine)
    began = time.monotonic()
    await rebuilt(engine, store, queue, Order(rate=100))
    events = (await log.head(engine)).position
    assert time.monotonic() - began >= (events - 7) / 100 > 0.5


async def test_another_number_of_lanes(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings
) -> None:
    """A rebuild cuts the view anew; the workers go on with it, and a heal keeps what somebody has chosen."""
    async with draining(engine, store, queue):
        await populate(engine)
        await level(engine, store)
        await until(lambda: _is_free(engine))
        view = await rebuilt(engine, store, queue, Order(lanes=16))
        await write(engine, (1, 2))
        assert await level(engine, store) == view and view.lanes == 16
        assert actual(redis, view) == expected(sql, view)
        redis.flushdb()
        healed = await level(engine, store)
        assert healed.lanes == 16 and actual(redis, healed) == expected(sql, healed)


@pytest.mark.parametrize("lanes", [0, 4, 20, -8])
def test_lanes_that_would_part_a_group_are_refused(lanes: int) -> None:
    """A user's group must be the same in every view: commands wait for it while readers are being moved."""
    with pytest.raises(RebuildRefused):
        Order(lanes=lanes)


async def test_the_way_back_and_forth(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings
) -> None:
    """Undo brings the view before up to the log first; undone again, readers see the newer one again."""
    old = await built(engine, store, queue)
    new = await rebuilt(engine, store, queue)
    for view in (old, new, old):
        await write(engine, (1, 2), (3, 4), (5, 6))
        assert await undone(engine, store, queue) == view == await generations.live_view(store)
        assert actual(redis, view) == expected(sql, view)
        assert (await states(engine))[view.generation] == "live"
    third = await rebuilt(engine, store, queue)
    assert await undone(engine, store, queue) == old, "what readers saw before, not what was undone"
    assert set(await states(engine)) == {old.generation, third.generation}, "older ones are removed"


async def test_there_is_not_always_a_way_back(engine: Engine, store: Store, redis: Plain, queue: QueueSettings) -> None:
    """Nothing kept, or lanes of it are gone: refused, and readers see what they saw."""
    old = await built(engine, store, queue)
    with pytest.raises(RebuildRefused, match="no older generation"):
        await undone(engine, store, queue)
    new = await rebuilt(engine, store, queue)
    redis.delete(old.checkpoint(5))
    with pytest.raises(RebuildRefused, match="lane 5"):
        await undone(engine, store, queue)
    assert await generations.live_view(store) == new


async def test_pruning_leaves_what_readers_see(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings
) -> None:
    """Old ones and unfinished ones go, to the last key."""
    await built(engine, store, queue)
    live = await rebuilt(engine, store, queue)
    epoch = (await log.head(engine)).epoch
    await building.start_or_resume(engine, store, 16, 1, epoch, "never finished")
    async with Builder(engine, store, queue) as builder:
        removed = await builder.prune()
    assert sorted(removed) == [live.generation - 1, live.generation + 1]
    assert await states(engine) == {live.generation: "live"}
    assert {key.split(b".")[0] for key in redis.keys("{*")} == {f"{{g{live.generation}".encode()}
    assert actual(redis, live) == expected(sql, live)


async def test_known_generations_say_where_they_stand(engine: Engine, store: Store, queue: QueueSettings) -> None:
    """Also one that is kept, which readers and workers no longer find."""
    old = await built(engine, store, queue)
    end = (await log.head(engine)).position
    new = await rebuilt(engine, store, queue)
    known = [(row.number, at, seen) for row, at, seen in await known_generations(engine, store)]
    assert known == [(old.generation, end, False), (new.generation, end, True)]
    assert set((await generations.checkpoints(store, old, range(64))).values()) == {None}


async def test_a_dry_run_writes_nothing(
    engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings
) -> None:
    """Neither in Redis nor in Postgres; with and without a view, with and without events."""
    nothing = await estimate(engine, store)
    assert (nothing.events, nothing.expected_bytes) == (0, None) and nothing.expected_s >= 0
    await built(engine, store, queue)
    before = redis.dbsize(), rows(sql, "TABLE generations"), rows(sql, "SELECT last_value FROM fences")
    cost = await estimate(engine, store)
    assert (redis.dbsize(), rows(sql, "TABLE generations"), rows(sql, "SELECT last_value FROM fences")) == before
    assert cost.events == (await log.head(engine)).position and cost.expected_s > 0
    assert cost.expected_bytes is not None and cost.expected_bytes > 1_000


async def test_workers_take_a_switched_view_over(
    engine: Engine, other_engine: Engine, store: Store, sql: Sql, redis: Plain, queue: QueueSettings
) -> None:
    """Two of them, each its own groups, under fences of their own, and nobody is fenced again after that."""
    async with draining(engine, store, queue) as one, draining(other_engine, store, queue) as other:
        await until(lambda: len(one._fences) == len(other._fences) == 4)
        await populate(engine)
        await level(engine, store)
        await until(lambda: _is_free(engine))
        view = await rebuilt(engine, store, queue)

        async def owned() -> bool:
            mine = {**one._fences_of(view), **other._fences_of(view)}
            found = await generations.checkpoints(store, view, range(view.lanes))
            return all(at is not None and at.fence == mine.get(lane) for lane, at in found.items())

        await until(owned)
        fences = dict(one._fences), dict(other._fences)
        await write(engine, (1, 2))
        assert await level(engine, store) == view and (one._fences, other._fences) == fences
        assert actual(redis, view) == expected(sql, view)
        assert positions(redis, view) == [(await log.head(engine)).position] * view.lanes


async def _is_free(engine: Engine) -> bool:
    """Whether nobody builds; a worker's first build ends a moment after its view is there."""
    return not any(lease.name == leases.BUILD for lease in await leases.owners(engine))
