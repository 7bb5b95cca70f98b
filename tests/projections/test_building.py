"""Building a view from nothing: beside what readers see, resumed after a death, switched when it is level."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands import generations as register
from commands import leases, log
from commands.events import UserFollowed
from commands.postgres import Engine, PostgresSettings, create_engine
from projections import building, catch_up, generations
from projections.building import BuildLease, heal, start_or_resume
from projections.catch_up import Fenced, Projector
from projections.keys import LANES, POINTER, View
from projections.store import Script, Store
from tests.commands.writing import append
from tests.opened import Plain
from tests.projections.model import actual, expected, positions
from tests.projections.worlds import populate, write
from tests.servers import Servers, fresh_database

Sql = psycopg.Connection[Any]


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes many steps, between which it can be looked at and can die."""
    assert building.fill.__kwdefaults__ is not None
    monkeypatch.setitem(building.fill.__kwdefaults__, "batch", 5)


async def ours() -> None:
    """The lease is still held."""


async def healed(engine: Engine, store: Store, fence: int = 1) -> View:
    """A view, built by whoever notices that there is none."""
    return await heal(engine, store, fence, (await log.head(engine)).epoch, ours)


async def test_a_built_view_is_the_log(engine: Engine, store: Store, sql: Sql, redis: Plain) -> None:
    """Whole, live, on file as such, and level with the log's end in every lane."""
    await populate(engine)
    view = await healed(engine, store)
    assert await generations.live(store) == generations.Live(view, since=(await log.head(engine)).position)
    assert actual(redis, view) == expected(sql, view)
    assert positions(redis, view) == [(await log.head(engine)).position] * view.lanes
    assert [(known.number, known.state) for known in await register.registered(engine)] == [(view.generation, "live")]


async def test_nobody_sees_it_before_it_is_whole(
    engine: Engine, store: Store, sql: Sql, redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is filled the pointer stays where it was and what readers see is untouched; then all of it is gone."""
    small_batches(monkeypatch)
    await populate(engine)
    old = await healed(engine, store)
    before = actual(redis, old)
    looks: list[View | None] = []

    async def look() -> None:
        looks.append(await generations.live_view(store))
        assert actual(redis, old) == before

    new = await heal(engine, store, 2, (await log.head(engine)).epoch, look)
    assert len(looks) > 5 and set(looks) == {old} and await generations.live_view(store) == new
    assert actual(redis, new) == expected(sql, new)
    assert not list(redis.scan_iter(match=old.pattern(), count=1000))
    assert [(known.number, known.state) for known in await register.registered(engine)] == [(new.generation, "live")]


async def test_a_build_that_died_is_gone_on_with(
    engine: Engine, store: Store, sql: Sql, redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor takes the same generation up where its lanes stand."""
    small_batches(monkeypatch)
    await populate(engine)
    calls: list[int] = []

    async def lost() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Fenced("the lease is another's")

    epoch = (await log.head(engine)).epoch
    with pytest.raises(Fenced):
        await heal(engine, store, 1, epoch, lost)
    assert await generations.live_view(store) is None
    half = max(positions(redis, View(1, LANES)))
    assert half > 0
    redis.set("{g1.0}:following:999999", "a mark that a new start would remove")
    view = await healed(engine, store, fence=2)
    assert view.generation == 1 and redis.delete("{g1.0}:following:999999")
    assert actual(redis, view) == expected(sql, view)


@pytest.mark.parametrize("spoiled", ["a lane is gone", "other lanes", "another log"])
async def test_a_build_that_cannot_be_gone_on_with_is_removed(
    engine: Engine, store: Store, sql: Sql, redis: Plain, spoiled: str
) -> None:
    """What is left of it is no good: it goes, and a new generation begins."""
    await populate(engine)
    epoch = (await log.head(engine)).epoch
    lanes = 32 if spoiled == "other lanes" else LANES
    begun = await start_or_resume(engine, store, lanes, 1, uuid4() if spoiled == "another log" else epoch, "a test")
    redis.zadd(begun.following(1), {"11": 5})
    if spoiled == "a lane is gone":
        redis.delete(begun.checkpoint(7))
    view = await healed(engine, store)
    assert view.generation > begun.generation and not list(redis.scan_iter(match=begun.pattern(), count=1000))
    assert actual(redis, view) == expected(sql, view)


async def test_a_number_that_another_database_has_used_does_not_come_back(
    engine: Engine, store: Store, sql: Sql, redis: Plain, servers: Servers
) -> None:
    """A new database begins to count at 1 again, and the Redis still has the old one's generation 1: who goes by that
    a moment longer must not read the beginnings of another. What is left of it goes when the new view is there."""
    await populate(engine)
    old = await healed(engine, store)
    with fresh_database(servers) as url:
        async with opened(url) as other:
            await append(other, 7, 8, UserFollowed())
            await generations.forget(store)
            view = await healed(other, store)
            assert view.generation > old.generation
            assert [found.generation for found in await generations.found(store)] == [view.generation]
            assert not list(redis.scan_iter(match=old.pattern(), count=1000))
            assert set(actual(redis, view)) == {view.following(7), view.followers(8)}


async def test_the_lost_view_is_never_the_one_just_built(
    engine: Engine, store: Store, sql: Sql, redis: Plain, servers: Servers
) -> None:
    """The same, with the old pointer still there and a lane lost: the new view must be there when the build is done."""
    await populate(engine)
    old = await healed(engine, store)
    redis.delete(old.checkpoint(3))
    with fresh_database(servers) as url:
        async with opened(url) as other:
            await append(other, 7, 8, UserFollowed())
            view = await healed(other, store)
            assert await generations.live_view(store) == view
            assert set(actual(redis, view)) == {view.following(7), view.followers(8)}
            assert positions(redis, view) == [1] * view.lanes


async def test_a_lane_is_lost_before_anything_of_it_goes(engine: Engine, store: Store, redis: Plain) -> None:
    """Promise 4: a reader who still goes by the old view finds its lane lost and looks again, never an empty list."""
    await populate(engine)
    view = await healed(engine, store)
    keys = len(actual(redis, view)) + view.lanes
    watched = Watched(store, redis)
    await generations.drop(watched, view)  # type: ignore[arg-type]
    assert len(watched.removed) == keys and watched.too_early == []


async def test_what_an_older_dump_has_brought_back_is_not_removed(
    engine: Engine, store: Store, sql: Sql, redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view was lost and its removal under way; now readers see it again, and must miss nothing of it."""
    monkeypatch.setattr(generations, "DROP_STEP", 5)
    await populate(engine)
    view = await healed(engine, store)
    restoring = Restoring(store, redis)
    await generations.drop(restoring, view)  # type: ignore[arg-type]
    assert restoring.done and actual(redis, view) == expected(sql, view)
    assert None not in positions(redis, view)


async def test_what_comes_back_of_a_dropped_view_goes_again(
    engine: Engine, store: Store, sql: Sql, redis: Plain
) -> None:
    """An older dump has brought it back, for nobody: of a cluster one server may have been set back."""
    await populate(engine)
    old = await healed(engine, store)
    saved = {key: redis.dump(key) for key in redis.scan_iter(match=old.pattern(), count=1000)}
    redis.delete(old.checkpoint(3))
    new = await healed(engine, store)
    for key, value in saved.items():
        redis.restore(key, 0, value, replace=True)
    assert await building.drop_rubbish(engine, store) == {old.generation: len(saved)}
    assert not list(redis.scan_iter(match=old.pattern(), count=1000))
    assert await generations.live_view(store) == new and actual(redis, new) == expected(sql, new)


async def test_removing_takes_its_own_keys_only(store: Store, redis: Plain) -> None:
    """Neither a generation whose number begins alike nor what belongs to none; called again, it finds nothing."""
    for view in (View(1, 4), View(11, 4)):
        redis.mset({view.user(number): "x" for number in range(40)})
    redis.set(POINTER, "kept")
    assert await generations.drop(store, View(1, 4)) == 40
    assert await generations.drop(store, View(1, 4)) == 0
    assert redis.dbsize() == 41


async def test_the_pointer_is_one_atomic_step(store: Store, redis: Plain) -> None:
    """Set, forgotten, or something that is no view."""
    assert await generations.live_view(store) is None
    await generations.switch(store, View(7, 64))
    assert await generations.live_view(store) == View(7, 64)
    await generations.forget(store)
    assert await generations.live_view(store) is None


async def test_a_missing_checkpoint_is_told_apart(engine: Engine, store: Store, redis: Plain) -> None:
    """A lane that is not there is None, not position 0."""
    view, epoch = View(5, 4), uuid4()
    await generations.prepare(store, view, epoch, 9)
    redis.delete(view.checkpoint(2))
    found = await generations.checkpoints(store, view, range(4))
    assert found == {lane: None if lane == 2 else generations.Checkpoint(0, 9, str(epoch)) for lane in range(4)}


async def test_what_is_written_while_it_is_built_is_in_it(engine: Engine, store: Store, sql: Sql, redis: Plain) -> None:
    """Commands go on during a build, and it ends at the log's end of then."""
    await populate(engine)

    async def write() -> None:
        if len(await register.registered(engine)) and not written:
            written.append(await append(engine, 500, 501, UserFollowed()))

    written: list[object] = []
    view = await heal(engine, store, 1, (await log.head(engine)).epoch, write)
    assert written and actual(redis, view) == expected(sql, view)
    assert catch_up.REBUILD_BATCH > catch_up.LIVE_BATCH


class Restoring:
    """A store whose Redis is set back to what it is now, as soon as something has been removed from it."""

    def __init__(self, store: Store, redis: Plain) -> None:
        self._store, self._redis = store, redis
        self._saved = {key: redis.dump(key) for key in redis.scan_iter(count=1000)}
        self.done = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Only the first removal has an effect."""
        answer = await self._store.run(script, keys, arguments)
        if script is generations.REMOVE and answer and not self.done:
            self.done = True
            self._redis.flushdb()
            for key, value in self._saved.items():
                self._redis.restore(key, 0, value)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Watched:
    """A store that notes what is removed, and of that what is removed while its lane is still there for readers."""

    def __init__(self, store: Store, redis: Plain) -> None:
        self._store, self._redis = store, redis
        self.removed: list[str] = []
        self.too_early: list[str] = []

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Note and pass on."""
        for name in keys[1:] if script is generations.REMOVE else ():
            self.removed.append(name)
            checkpoint = name.partition(":")[0] + ":checkpoint"
            if name != checkpoint and self._redis.hget(checkpoint, "position") is not None:
                self.too_early.append(name)
        return await self._store.run(script, keys, arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Engine]:
    """An engine for another database."""
    engine = create_engine(PostgresSettings(url))
    yield engine
    await engine.dispose()


async def test_a_lane_that_loses_its_tail_at_the_end_of_a_build_is_built_on(
    engine: Engine, store: Store, sql: Sql, redis: Plain
) -> None:
    """It is noticed only when the lanes that the last batch did not touch are written down; the build is not over."""
    numbers = await populate(engine)
    for _ in range(6):
        await write(engine, (numbers[0], numbers[1]))
    head, view = await log.head(engine), View(1, 64)
    await generations.prepare(store, view, head.epoch, 1)
    projector = Projector(engine, store, view, dict.fromkeys(range(64), 1), head.epoch)
    await projector.load()
    lane, losses = view.lane_of(numbers[4]), 0

    async def between(progress: building.Progress) -> None:
        nonlocal losses
        if progress.position == head.position and not losses:
            losses += 1
            redis.delete(*redis.keys(f"{{g1.{lane}}}*"))
            redis.hset(view.checkpoint(lane), mapping={"position": 0, "fence": 1, "epoch": str(head.epoch)})

    await building.fill(engine, store, projector, between, batch=5)
    assert losses == 1 and positions(redis, view) == [head.position] * 64
    assert actual(redis, view) == expected(sql, view)


async def test_who_is_told_to_end_while_he_gives_the_lease_back_gives_it_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next build would wait until it runs out."""
    real = leases.release

    async def told(*arguments: Any) -> None:
        builder.cancel()
        await asyncio.sleep(0)  # it is told here, before anything of this has been done
        await real(*arguments)

    async def build() -> None:
        async with BuildLease(engine):
            assert [lease.name for lease in await leases.owners(engine)] == [leases.BUILD]

    monkeypatch.setattr(leases, "release", told)
    builder = asyncio.create_task(build())
    with pytest.raises(asyncio.CancelledError):
        await builder
    assert await leases.owners(engine) == []
