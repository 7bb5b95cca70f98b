"""Building and healing: next to the live view, resumed after a kill, switched when it is up to date."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from commands.coordination import leases
from commands.coordination import view_register as register
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.events import UserFollowed
from commands.log import event_log as log
from projections.client.client import RedisClient, Script
from projections.errors import Fenced
from projections.feeding.adopt import adopt, look
from projections.keys import PARTITIONS, POINTER, View, write_word
from projections.projector import projector
from projections.projector.projector import Projector
from projections.rebuild import build
from projections.rebuild.build import BuildLease, start_or_resume
from projections.rebuild.pace import BuildProgress
from projections.views import generations
from projections.views.leftovers import leftovers
from tests.support.fixtures import Plain
from tests.support.log_writes import append
from tests.support.rebuilds import healed
from tests.support.servers import Servers, fresh_database
from tests.support.small_world import populate, write
from tests.support.view_model import actual, expected, positions

Sql = psycopg.Connection[Any]


# A build takes many steps, between which a test can look at it and end it.
SMALL_BATCH = 5


async def test_built_view_equals_the_log_and_is_live(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain
) -> None:
    """All of its partitions are at the end of the log, and the register knows that it is live."""
    await populate(engine)
    view = await healed(engine, redis)
    live = await generations.read_pointer(redis)
    assert live and (live.view, live.since, live.evicted) == (view, (await log.head(engine)).position, {})
    assert actual(raw_redis, view) == expected(sql, view)
    assert positions(raw_redis, view) == [(await log.head(engine)).position] * view.partitions
    assert [(known.number, known.state) for known in await register.list_generations(engine)] == [
        (view.generation, "live")
    ]


async def test_view_under_construction_is_not_live_until_it_is_whole(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain
) -> None:
    """While it is filled neither the pointer nor the old view changes; then the old view is deleted."""
    await populate(engine)
    old = await healed(engine, redis)
    before = actual(raw_redis, old)
    looks: list[View | None] = []

    async def look() -> None:
        looks.append(await generations.live_view(redis))
        assert actual(raw_redis, old) == before

    new = await healed(engine, redis, 2, look, SMALL_BATCH)
    assert len(looks) > 5 and set(looks) == {old} and await generations.live_view(redis) == new
    assert actual(raw_redis, new) == expected(sql, new)
    assert not list(raw_redis.scan_iter(match=old.pattern(), count=1000))
    assert [(known.number, known.state) for known in await register.list_generations(engine)] == [
        (new.generation, "live")
    ]


async def test_build_that_died_is_resumed(engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain) -> None:
    """The next build continues the same generation from the positions of its partitions."""
    await populate(engine)

    async def lost() -> None:
        if max(positions(raw_redis, View(1, PARTITIONS))):
            raise Fenced("the build lease")

    with pytest.raises(Fenced):
        await healed(engine, redis, 1, lost, SMALL_BATCH)
    assert await generations.live_view(redis) is None
    half = max(positions(raw_redis, View(1, PARTITIONS)))
    assert half > 0
    raw_redis.set("{g1.0}:following:999999", "a mark that a new start would remove")
    view = await healed(engine, redis, fence=2)
    assert view.generation == 1 and raw_redis.delete("{g1.0}:following:999999")
    assert actual(raw_redis, view) == expected(sql, view)


@pytest.mark.parametrize("spoiled", ["a partition is gone", "other partitions", "another history"])
async def test_build_that_cannot_be_resumed_is_deleted(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, spoiled: str
) -> None:
    """A new generation begins."""
    await populate(engine)
    partitions = 32 if spoiled == "other partitions" else PARTITIONS
    begun = await start_or_resume(engine, redis, partitions, 1, "a test")
    if spoiled == "another history":
        raw_redis.hset(begun.checkpoint(5), "word", write_word(0, 1))
    raw_redis.zadd(begun.following(1), {"11": 5})
    if spoiled == "a partition is gone":
        raw_redis.delete(begun.checkpoint(7))
    view = await healed(engine, redis)
    assert view.generation > begun.generation and not list(raw_redis.scan_iter(match=begun.pattern(), count=1000))
    assert actual(raw_redis, view) == expected(sql, view)


async def test_generation_number_of_another_database_is_not_reused(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, servers: Servers
) -> None:
    """A new database counts from 1 again, and Redis still has generation 1 of the old one. A reader that uses that one
    a moment longer must not read the beginnings of another. It is deleted when the new view is live."""
    await populate(engine)
    old = await healed(engine, redis)
    with fresh_database(servers) as url:
        async with opened(url) as other:
            await append(other, 7, 8, UserFollowed())
            await generations.clear_pointer(redis)
            await adopt(other, redis, *await look(other, redis))
            view = await healed(other, redis)
            assert view.generation > old.generation
            assert [view.generation for view in await leftovers(redis)] == [view.generation]
            assert not list(raw_redis.scan_iter(match=old.pattern(), count=1000))
            assert set(actual(raw_redis, view)) == {view.following(7), view.followers(8)}


async def test_lost_view_with_number_of_another_database_does_not_take_the_new_view_along(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, servers: Servers
) -> None:
    """The old pointer is still there, and a partition lost: when the lost view is deleted, the new one stays."""
    await populate(engine)
    old = await healed(engine, redis)
    raw_redis.delete(old.checkpoint(3))
    with fresh_database(servers) as url:
        async with opened(url) as other:
            await append(other, 7, 8, UserFollowed())
            await adopt(other, redis, *await look(other, redis))
            view = await healed(other, redis)
            assert await generations.live_view(redis) == view
            assert set(actual(raw_redis, view)) == {view.following(7), view.followers(8)}
            assert positions(raw_redis, view) == [1] * view.partitions


async def test_deletion_takes_the_position_of_a_partition_first(
    engine: Engine, redis: RedisClient, raw_redis: Plain
) -> None:
    """P4: a reader that still uses the old view finds its partition lost and reads the pointer again; it never gets an
    empty list."""
    await populate(engine)
    view = await healed(engine, redis)
    keys = len(actual(raw_redis, view)) + view.partitions
    watched = Watched(redis, raw_redis)
    await generations.delete(watched, view)  # type: ignore[arg-type]
    assert len(watched.removed) == keys and watched.too_early == []


async def test_view_restored_during_its_deletion_is_kept(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older dump brings the view back while it is being deleted; readers must miss nothing of it."""
    monkeypatch.setattr(generations, "DELETE_STEP", 5)
    await populate(engine)
    view = await healed(engine, redis)
    restoring = Restoring(redis, raw_redis)
    await generations.delete(restoring, view)  # type: ignore[arg-type]
    assert restoring.done and actual(raw_redis, view) == expected(sql, view)
    assert None not in positions(raw_redis, view)


async def test_deleted_view_that_an_older_dump_restored_is_deleted_again(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain
) -> None:
    """No process uses it: one server of a cluster may have been set back."""
    await populate(engine)
    old = await healed(engine, redis)
    saved = {key: raw_redis.dump(key) for key in raw_redis.scan_iter(match=old.pattern(), count=1000)}
    raw_redis.delete(old.checkpoint(3))
    new = await healed(engine, redis)
    for key, value in saved.items():
        raw_redis.restore(key, 0, value, replace=True)
    assert await build.delete_unusable(engine, redis) == {old.generation: len(saved)}
    assert not list(raw_redis.scan_iter(match=old.pattern(), count=1000))
    assert await generations.live_view(redis) == new and actual(raw_redis, new) == expected(sql, new)


async def test_deletion_removes_keys_of_its_own_generation_only(redis: RedisClient, raw_redis: Plain) -> None:
    """A generation whose number begins alike stays, and so do other keys; a second call finds nothing."""
    for view in (View(1, 4), View(11, 4)):
        raw_redis.mset({view.user(number): "x" for number in range(40)})
    raw_redis.set(POINTER, "kept")
    assert await generations.delete(redis, View(1, 4)) == 40
    assert await generations.delete(redis, View(1, 4)) == 0
    assert raw_redis.dbsize() == 41


async def test_pointer_names_the_view_until_it_is_cleared(redis: RedisClient, raw_redis: Plain) -> None:
    assert await generations.live_view(redis) is None
    await generations.switch(redis, View(7, 64))
    assert await generations.live_view(redis) == View(7, 64)
    await generations.clear_pointer(redis)
    assert await generations.live_view(redis) is None


async def test_missing_checkpoint_is_none_and_not_position_0(
    engine: Engine, redis: RedisClient, raw_redis: Plain
) -> None:
    view = View(5, 4)
    await generations.prepare(redis, view, 77, 9)
    raw_redis.delete(view.checkpoint(2))
    found = await generations.checkpoints(redis, view, range(4))
    assert found == {partition: None if partition == 2 else generations.Checkpoint(0, 9, 77) for partition in range(4)}


async def test_follow_during_the_build_is_in_the_view(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain
) -> None:
    """Commands go on during a build, which ends at the end of the log as it is then."""
    await populate(engine)

    async def write() -> None:
        if len(await register.list_generations(engine)) and not written:
            written.append(await append(engine, 500, 501, UserFollowed()))

    written: list[object] = []
    view = await healed(engine, redis, 1, write)
    assert written and actual(raw_redis, view) == expected(sql, view)
    assert projector.REBUILD_BATCH > projector.LIVE_BATCH


class Restoring:
    """A client whose Redis is set back to its present state after the first deletion."""

    def __init__(self, redis: RedisClient, raw_redis: Plain) -> None:
        self._redis, self._raw_redis = redis, raw_redis
        self._saved = {key: raw_redis.dump(key) for key in raw_redis.scan_iter(count=1000)}
        self.done = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run the script; the first deletion sets Redis back."""
        answer = await self._redis.run(script, keys, arguments)
        if script is generations.REMOVE and answer and not self.done:
            self.done = True
            self._raw_redis.flushdb()
            for key, value in self._saved.items():
                self._raw_redis.restore(key, 0, value)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


class Watched:
    """A client that records the deleted keys, and those of them whose partition still had a position."""

    def __init__(self, redis: RedisClient, raw_redis: Plain) -> None:
        self._redis, self._raw_redis = redis, raw_redis
        self.removed: list[str] = []
        self.too_early: list[str] = []

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Record the keys and run the script."""
        for name in keys[1:] if script is generations.REMOVE else ():
            self.removed.append(name)
            checkpoint = name.partition(":")[0] + ":checkpoint"
            if name != checkpoint and self._raw_redis.hget(checkpoint, "position") is not None:
                self.too_early.append(name)
        return await self._redis.run(script, keys, arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Engine]:
    """Open an engine for another database."""
    engine = create_engine(PostgresSettings(url, allow_async_commit=True))
    yield engine
    await engine.dispose()


async def test_partition_that_loses_writes_at_the_end_of_a_build_is_filled_again(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain
) -> None:
    """The loss shows only when the checkpoints of the partitions are written that the last batch did not touch."""
    numbers = await populate(engine)
    for _ in range(6):
        await write(engine, (numbers[0], numbers[1]))
    head, view = await log.head(engine), View(1, 64)
    await generations.prepare(redis, view, None, 1)
    projector = Projector(engine, redis, view, dict.fromkeys(range(64), 1))
    await projector.load()
    partition, losses = view.partition_of(numbers[4]), 0

    async def between(progress: BuildProgress) -> None:
        nonlocal losses
        if progress.position == head.position and not losses:
            losses += 1
            raw_redis.delete(*raw_redis.keys(f"{{g1.{partition}}}*"))
            raw_redis.hset(view.checkpoint(partition), mapping={"position": 0, "fence": 1})

    await build.fill(engine, redis, projector, between, batch=5)
    assert losses == 1 and positions(raw_redis, view) == [head.position] * 64
    assert actual(raw_redis, view) == expected(sql, view)


async def test_fill_ends_while_each_batch_is_followed_by_a_write(engine: Engine, redis: RedisClient) -> None:
    """What is left then is less than a batch, which the switch reads."""
    numbers, writes = await populate(engine), 0
    view = View(1, 64)
    await generations.prepare(redis, view, None, 1)
    projector = Projector(engine, redis, view, dict.fromkeys(range(64), 1))
    await projector.load()

    async def between(_: BuildProgress) -> None:
        nonlocal writes
        writes += 1
        assert writes < 50, "the fill does not end"
        await write(engine, (numbers[0], numbers[1]))

    await build.fill(engine, redis, projector, between)
    assert 0 < (await log.head(engine)).position - projector.position < 5


async def test_build_cancelled_while_it_releases_the_lease_releases_it(
    engine: Engine, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next build would wait until this one is seen to have ended."""
    real = leases.release

    async def release_cancelled(*arguments: Any) -> None:
        builder.cancel()
        await asyncio.sleep(0)  # the cancellation arrives here, before anything has been released
        await real(*arguments)

    async def build() -> None:
        async with BuildLease(engine, redis):
            assert [lease.name for lease in await leases.list_leases(engine)] == [leases.BUILD_LEASE]

    monkeypatch.setattr(leases, "release", release_cancelled)
    builder = asyncio.create_task(build())
    with pytest.raises(asyncio.CancelledError):
        await builder
    assert await leases.list_leases(engine) == []
