"""Rebuilding: the live view does not change until the new one is verified; then one step, and a way back (P6)."""

import random
import time
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands.coordination import leases
from commands.coordination import view_register as register
from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.errors import BuildRunning, Fenced, RebuildRefused
from projections.keys import View
from projections.rebuild import build, switch
from projections.rebuild.build import BuildLease
from projections.rebuild.estimate import estimate
from projections.rebuild.pace import BuildProgress
from projections.rebuild.rebuild import Builder, RebuildOptions, known_generations
from projections.signals.job_queue import QueueSettings
from projections.views import generations
from tests.support.fixtures import Plain
from tests.support.live_view import FAST, projecting, up_to_date_view
from tests.support.log_writes import rows
from tests.support.rebuilds import Killed, built, rebuilt, undone
from tests.support.small_world import populate, write
from tests.support.view_model import actual, expected, positions
from tests.support.waiting import until

Sql = psycopg.Connection[Any]


async def states(engine: Engine) -> dict[int, str]:
    """Return number -> state of each registered generation."""
    return {known.number: known.state for known in await register.list_generations(engine)}


async def test_rebuilt_view_equals_the_live_one(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """The same keys with the same content, under another number; the old view is kept unchanged."""
    async with projecting(engine, redis, queue, FAST):
        await populate(engine)
        grown = await up_to_date_view(engine, redis)
    before = actual(raw_redis, grown)
    view = await rebuilt(engine, redis, queue)
    assert view.generation == grown.generation + 1 and await generations.live_view(redis) == view
    assert actual(raw_redis, view) == expected(sql, view)
    assert actual(raw_redis, grown) == before
    assert await states(engine) == {grown.generation: "old", view.generation: "live"}


async def test_rebuild_leaves_the_live_view_unchanged_until_the_switch(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Checked between any two steps of the build."""
    old = await built(engine, redis, queue)
    before, seen = actual(raw_redis, old), []

    def look(_: BuildProgress) -> None:
        seen.append(raw_redis.get("follows:view"))
        assert actual(raw_redis, old) == before

    new = await rebuilt(engine, redis, queue, show=look)
    assert len(seen) > 5 and len(set(seen)) == 1 and await generations.live_view(redis) == new


@pytest.mark.parametrize("seed", range(3))
async def test_rebuild_killed_again_and_again_is_resumed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings, seed: int
) -> None:
    """It is killed at random steps, with writes in between: one generation is filled, and it equals the log."""
    old = await built(engine, redis, queue)
    choice = random.Random(seed)
    numbers = list(range(1, 12))
    for _ in range(4):
        left = choice.randint(1, 6)

        def count(_: BuildProgress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        with pytest.raises(Killed):
            await rebuilt(engine, redis, queue, show=count)
        assert await generations.live_view(redis) == old
        await write(engine, *[tuple(choice.sample(numbers, 2)) for _ in range(2)])  # type: ignore[arg-type]
    view = await rebuilt(engine, redis, queue)
    assert view.generation == old.generation + 1 and actual(raw_redis, view) == expected(sql, view)


@pytest.mark.parametrize("step", ["switch", "retire", "set_state"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_kill_at_the_switch_leaves_one_whole_view_live(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    queue: QueueSettings,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    done: bool,
) -> None:
    """Workers go on with that view, and the next rebuild neither deletes nor resumes it."""
    old = await built(engine, redis, queue)
    place = switch if step == "set_state" else generations
    real = getattr(place, step)

    async def dies(*arguments: Any) -> None:
        if done:
            await real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, step, dies)
        with pytest.raises(Killed):
            await rebuilt(engine, redis, queue)
    seen = await generations.live_view(redis)
    assert seen is not None and (seen == old) == (step == "switch" and not done)
    await write(engine, (1, 2))
    async with projecting(engine, redis, queue, FAST):
        assert await up_to_date_view(engine, redis) == seen
        assert actual(raw_redis, seen) == expected(sql, seen)
    last = await rebuilt(engine, redis, queue)
    assert last.generation > seen.generation
    assert actual(raw_redis, last) == expected(sql, last)
    assert (await states(engine))[last.generation] == "live"


async def test_builder_with_an_old_fence_cannot_switch_readers(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """It was stopped just before the switch, and another build has switched since."""
    await built(engine, redis, queue)
    stale = await leases.next_fence(engine)
    newer = await rebuilt(engine, redis, queue)
    assert not await generations.switch(redis, View(77, 64), stale)
    assert not await generations.retire(redis, newer, 0)
    assert await generations.live_view(redis) == newer
    assert (await generations.checkpoints(redis, newer, [0]))[0] is not None


async def test_builder_that_lost_its_lease_stops(
    engine: Engine, redis: RedisClient, queue: QueueSettings, sql: Sql
) -> None:
    """Another process has the lease: what the first one still does is fenced, and readers are not switched."""
    old = await built(engine, redis, queue)
    async with Builder(engine, redis, queue, BuildLease(engine, redis, renew_s=0.01)) as first:
        sql.execute("DELETE FROM lease_owners")
        await leases.acquire(engine, leases.BUILD_LEASE, uuid4())

        async def stopped() -> bool:
            try:
                await first.check_lease()
            except Fenced:
                return True
            return False

        await until(stopped)
        with pytest.raises(Fenced):
            await first.rebuild(RebuildOptions(), lambda _: None)
    assert await generations.live_view(redis) == old


async def test_second_rebuild_at_a_time_is_refused(engine: Engine, redis: RedisClient, queue: QueueSettings) -> None:
    async with Builder(engine, redis, queue):
        with pytest.raises(BuildRunning):
            await rebuilt(engine, redis, queue)


async def test_view_that_differs_from_the_log_does_not_go_live(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """One entry is enough. The register has the reason; once repaired, the generation can be resumed."""
    old = await built(engine, redis, queue)
    key = View(old.generation + 1, old.partitions).followers(1)
    kept: list[tuple[bytes, float]] = []

    def lose_one(progress: BuildProgress) -> None:
        if progress.position == progress.head and not kept:
            kept.extend(raw_redis.zrange(key, 0, 0, withscores=True))
            raw_redis.zrem(key, kept[0][0])

    with pytest.raises(RebuildRefused, match="differs from the log in 1 places"):
        await rebuilt(engine, redis, queue, show=lose_one)
    assert await generations.live_view(redis) == old
    refused = (await register.list_generations(engine))[-1]
    assert refused.state == "building" and "differs" in refused.reason
    with pytest.raises(RebuildRefused):
        await rebuilt(engine, redis, queue)
    raw_redis.zadd(key, {kept[0][0]: kept[0][1]})
    assert (await rebuilt(engine, redis, queue)).generation == refused.number


async def test_two_fillers_together_equal_the_log(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    queue: QueueSettings,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process fills half of the partitions."""
    await populate(engine)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    view = await rebuilt(engine, redis, queue, RebuildOptions(workers=2, verify=False))
    assert actual(raw_redis, view) == expected(sql, view)


async def test_rate_is_kept_over_the_whole_build(engine: Engine, redis: RedisClient, queue: QueueSettings) -> None:
    await populate(engine)
    began = time.monotonic()

    def show(progress: BuildProgress) -> None:
        assert progress.events <= 100 * (time.monotonic() - began) + 7

    await rebuilt(engine, redis, queue, RebuildOptions(rate=100, batch=7), show)
    events = (await log.head(engine)).position
    assert time.monotonic() - began >= (events - 7) / 100 > 0.5


async def test_rebuild_into_other_partitions_is_kept_by_workers_and_healing(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Workers project the new partitions, and a healed view has as many."""
    async with projecting(engine, redis, queue, FAST):
        await populate(engine)
        await up_to_date_view(engine, redis)
        await until(lambda: _is_free(engine))
        view = await rebuilt(engine, redis, queue, RebuildOptions(partitions=16))
        await write(engine, (1, 2))
        assert await up_to_date_view(engine, redis) == view and view.partitions == 16
        assert actual(raw_redis, view) == expected(sql, view)
        raw_redis.flushdb()
        healed = await up_to_date_view(engine, redis)
        assert healed.partitions == 16 and actual(raw_redis, healed) == expected(sql, healed)


@pytest.mark.parametrize("partitions", [0, 4, 20, -8])
def test_partitions_that_split_a_lease_group_are_refused(partitions: int) -> None:
    """A user is in the same group in every view, because commands wait for a group while readers are switched."""
    with pytest.raises(RebuildRefused):
        RebuildOptions(partitions=partitions)


async def test_undo_switches_back_and_forth(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Undo brings the old view up to date first; a second undo returns to the newer one."""
    old = await built(engine, redis, queue)
    new = await rebuilt(engine, redis, queue)
    for view in (old, new, old):
        await write(engine, (1, 2), (3, 4), (5, 6))
        assert await undone(engine, redis, queue) == view == await generations.live_view(redis)
        assert actual(raw_redis, view) == expected(sql, view)
        assert (await states(engine))[view.generation] == "live"
    third = await rebuilt(engine, redis, queue)
    assert await undone(engine, redis, queue) == old, "the view before, not the one that was undone"
    assert set(await states(engine)) == {old.generation, third.generation}, "older ones are deleted"


async def test_undo_without_a_whole_old_generation_is_refused(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    """None is kept, or it lacks partitions; the live view stays."""
    old = await built(engine, redis, queue)
    with pytest.raises(RebuildRefused, match="no older generation"):
        await undone(engine, redis, queue)
    new = await rebuilt(engine, redis, queue)
    raw_redis.delete(old.checkpoint(5))
    with pytest.raises(RebuildRefused, match="partition 5"):
        await undone(engine, redis, queue)
    assert await generations.live_view(redis) == new


async def test_prune_deletes_all_but_the_live_generation(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Old and unfinished ones are deleted to the last key."""
    await built(engine, redis, queue)
    live = await rebuilt(engine, redis, queue)
    await build.start_or_resume(engine, redis, 16, 1, "never finished")
    async with Builder(engine, redis, queue) as builder:
        removed = await builder.prune()
    assert sorted(removed) == [live.generation - 1, live.generation + 1]
    assert await states(engine) == {live.generation: "live"}
    assert {key.split(b".")[0] for key in raw_redis.keys("{g*")} == {f"{{g{live.generation}".encode()}
    assert actual(raw_redis, live) == expected(sql, live)


async def test_known_generations_have_positions_also_when_retired(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """Readers and workers no longer find the position of a retired one."""
    old = await built(engine, redis, queue)
    end = (await log.head(engine)).position
    new = await rebuilt(engine, redis, queue)
    known = [(row.number, at, live) for row, at, live in await known_generations(engine, redis)]
    assert known == [(old.generation, end, False), (new.generation, end, True)]
    assert set((await generations.checkpoints(redis, old, range(64))).values()) == {None}


async def test_estimate_writes_nothing(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Neither to Redis nor to Postgres; with and without a view, with and without events."""
    nothing = await estimate(engine, redis)
    assert (nothing.events, nothing.expected_bytes) == (0, None) and nothing.expected_s >= 0
    await built(engine, redis, queue)
    before = raw_redis.dbsize(), rows(sql, "TABLE generations"), rows(sql, "SELECT last_value FROM fences")
    cost = await estimate(engine, redis)
    assert (raw_redis.dbsize(), rows(sql, "TABLE generations"), rows(sql, "SELECT last_value FROM fences")) == before
    assert cost.events == (await log.head(engine)).position and cost.expected_s > 0
    assert cost.expected_bytes is not None and cost.expected_bytes > 1_000


async def test_workers_take_over_the_new_view_after_a_switch(
    engine: Engine, other_engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Each has its own groups, under fences of its own, and neither is fenced again after that."""
    async with projecting(engine, redis, queue, FAST) as one, projecting(other_engine, redis, queue, FAST) as other:
        await until(lambda: len(one.leases.fences) == len(other.leases.fences) == 4)
        await populate(engine)
        await up_to_date_view(engine, redis)
        await until(lambda: _is_free(engine))
        view = await rebuilt(engine, redis, queue)

        async def owned() -> bool:
            mine = {**one.leases.of_view(view), **other.leases.of_view(view)}
            found = await generations.checkpoints(redis, view, range(view.partitions))
            return all(at is not None and at.fence == mine.get(partition) for partition, at in found.items())

        await until(owned)
        fences = dict(one.leases.fences), dict(other.leases.fences)
        await write(engine, (1, 2))
        assert await up_to_date_view(engine, redis) == view and (one.leases.fences, other.leases.fences) == fences
        assert actual(raw_redis, view) == expected(sql, view)
        assert positions(raw_redis, view) == [(await log.head(engine)).position] * view.partitions


async def _is_free(engine: Engine) -> bool:
    """Return whether no build is under way; a worker's first build ends a moment after its view is live."""
    return not any(lease.name == leases.BUILD_LEASE for lease in await leases.list_leases(engine))
