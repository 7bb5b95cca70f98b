"""A view that begins with a snapshot equals the one that the projector builds event by event, to the last byte."""

import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commands.coordination import leases
from commands.db.postgres import Engine
from commands.directory import Directory
from commands.events import FollowEvent, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.users import UserChanges
from projections.client.client import RedisClient, Script
from projections.errors import Fenced, LogChanged, NotSwitched
from projections.keys import View
from projections.rebuild.limits import SnapshotLimits
from projections.rebuild.pace import BuildProgress, Pace
from projections.rebuild.rebuild import RebuildOptions
from projections.signals.job_queue import QueueSettings
from projections.views import generations
from projections.views.building import build_position
from tests.support.fixtures import Plain, few
from tests.support.intercepted_redis import Killed, Proceed, intercepted, killed_at
from tests.support.killed_build import KILLED, killed_builds
from tests.support.log_writes import empty, lose_tail
from tests.support.random_histories import Step, World, small, user_actions
from tests.support.rebuilds import healed, rebuilt
from tests.support.small_world import busy, people, populate, write
from tests.support.snapshots import (
    BY_EVENTS,
    BY_SNAPSHOT,
    MANY_PARTS,
    Drawn,
    Pair,
    both,
    check_resumed_after_each_step,
    drawn_events,
    filled,
    follow,
    history_of,
    pools,
    prepared,
    restores,
    whole,
)
from tests.support.view_model import actual, expected, positions

Sql = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def restored(raw_redis: Plain) -> int:
    """How many lists were restored before the test."""
    return restores(raw_redis)


@pytest.fixture
async def world(engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain) -> AsyncIterator[World]:
    """A world that each example begins."""
    made = World(engine, redis, sql, raw_redis)
    yield made
    await made.end()


def is_empty(folder: Path) -> bool:
    """Return whether nothing is in a folder."""
    return not any(folder.iterdir())


@settings(few, max_examples=40)
@example([("follow", 0, 1), ("unfollow", 0, 1), ("follow", 1, 1)], 50)
@example([("follow", 0, 1), ("change_notifications", 0, 1), ("unfollow", 0, 1), ("import_follow", 0, 1)], 1)
@given(st.lists(st.tuples(user_actions, small, small), min_size=1, max_size=45), st.integers(1, 50))
async def test_snapshot_of_any_history_equals_the_projectors_view(
    world: World, history: Sequence[Step], batch: int
) -> None:
    """Follows, names, profiles, broadcasts and erasures, half-way or done."""
    await world.begin()
    await world.run(history)
    await both(world.engine, world.redis, world.raw_redis, batch)
    assert actual(world.raw_redis, BY_SNAPSHOT) == expected(world.sql, BY_SNAPSHOT)


@settings(few, max_examples=40)
@given(pools, drawn_events)
async def test_snapshot_of_any_numbers_and_times_equals_the_projectors_view(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    pool: list[int],
    drawn: Drawn,
) -> None:
    """Each encoding of a member and of a score, and equal scores, which the members order."""
    empty(sql)
    raw_redis.flushdb()
    await follow(engine, history_of(pool, drawn))
    await both(engine, redis, raw_redis)


@pytest.mark.parametrize("length", [1_024, 1_025, 5_000, 5_001, 12_345])
async def test_long_list_equals_the_projectors(
    engine: Engine, redis: RedisClient, raw_redis: Plain, length: int
) -> None:
    """It is a listpack or a skiplist, in one piece or with the rest added."""
    few_times = [UserFollowed(created_at=at) for at in range(1_600_000_000_000_000, 1_600_000_000_000_100)]
    await follow(engine, [((7 * other + 10, 3), few_times[other % 100]) for other in range(length)])
    made = await both(engine, redis, raw_redis)
    encoding, entries = made["3}:followers:3"]
    assert (encoding, len(entries)) == (b"listpack" if length <= 1_024 else b"skiplist", length)


async def test_rebuild_under_writes_is_verified_and_switched(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings, restored: int
) -> None:
    """The projector goes on from the snapshot, with rows in it that are newer.

    A build with batches smaller than what is written in one step would never end.
    """
    numbers = await populate(engine)
    async with busy(engine, numbers):
        view = await rebuilt(engine, redis, queue, RebuildOptions())
    assert restores(raw_redis) > restored
    end = (await rebuilt(engine, redis, queue)).generation
    assert end == view.generation + 1 and actual(raw_redis, View(end, 64)) == expected(sql, View(end, 64))


async def test_users_that_change_meanwhile_are_right_in_the_end(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, restored: int
) -> None:
    """A login goes from one user to the next, one is erased, and follows begin and end, between any two steps."""
    numbers = await populate(engine)
    users, steps = Directory(engine), 0

    async def change(_: BuildProgress) -> None:
        nonlocal steps
        steps += 1
        if steps % 4 == 0 and steps < 60:
            await users.put("u2", UserChanges(username=f"away{steps}"))
            await users.put("u3", UserChanges(username="wanted"))
            await users.put("u3", UserChanges(username=f"gone{steps}"))
            await users.put("u2", UserChanges(username="wanted"))
            await write(engine, (numbers[steps % 5], numbers[6]))
        if steps == 14:
            await users.erase("u5")

    await prepared(engine, redis, BY_SNAPSHOT)
    await filled(engine, redis, BY_SNAPSHOT, change, batch=10)
    assert steps > 20 and restores(raw_redis) > restored
    assert actual(raw_redis, BY_SNAPSHOT) == expected(sql, BY_SNAPSHOT)


async def test_list_that_memory_cannot_hold_is_made_in_parts(
    engine: Engine, redis: RedisClient, raw_redis: Plain
) -> None:
    """It has more records than a bucket may have, and others are in its bucket."""
    history: list[tuple[Pair, FollowEvent]] = [((other, 3), UserFollowed()) for other in range(10, 3_000)]
    history += [((other, 3), UserUnfollowed()) for other in range(20, 2_000, 3)]
    history += [((other, 7), UserFollowed()) for other in range(10, 40)]
    await follow(engine, history)
    await prepared(engine, redis, BY_EVENTS, snapshot=False)
    await filled(engine, redis, BY_EVENTS)
    await prepared(engine, redis, BY_SNAPSHOT)
    before = restores(raw_redis)
    await filled(engine, redis, BY_SNAPSHOT, limits=SnapshotLimits(bucket_records=100, write_events=500))
    assert restores(raw_redis) > before
    assert whole(raw_redis, BY_SNAPSHOT) == whole(raw_redis, BY_EVENTS)


async def test_steps_of_a_build_are_noted(engine: Engine, redis: RedisClient, raw_redis: Plain) -> None:
    """By which `follows status` and Retry-After know how much is left; partitions stay at 0 until they are whole."""
    await populate(engine)
    await prepared(engine, redis, BY_SNAPSHOT)
    end, noted = (await log.head(engine)).position, [await build_position(redis, BY_SNAPSHOT)]
    seen: BuildProgress | None = None

    async def look(progress: BuildProgress) -> None:
        nonlocal seen
        seen = progress
        noted.append(await build_position(redis, BY_SNAPSHOT))
        assert set(positions(raw_redis, BY_SNAPSHOT)) <= {0, end} and 0 <= progress.position <= end

    await filled(engine, redis, BY_SNAPSHOT, look, batch=37, limits=SnapshotLimits(noted_every_s=0.0))
    assert noted[0] == 0 and noted == sorted(noted, key=lambda at: at or 0) and noted[-1] == end
    assert len({at for at in noted if at}) > 5 and seen is not None
    assert (seen.events, seen.position, seen.head) == (await log.count_events(engine), end, end)


async def test_work_of_a_snapshot_is_counted_in_small_steps(
    engine: Engine, redis: RedisClient, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rate is kept by what each step counts: events that are read, users that are written, and parts of lists."""
    await populate(engine)
    await follow(engine, [((7 * other + 5_000, 3), UserFollowed()) for other in range(400)])
    await prepared(engine, redis, BY_SNAPSHOT)
    real, steps = Pace.wait, list[tuple[int, float]]()

    async def wait(self: Pace, position: int, *, events: int = 0, work: float = 0.0) -> None:
        steps.append((events, work))
        await real(self, position, events=events, work=work)

    monkeypatch.setattr(Pace, "wait", wait)
    await filled(engine, redis, BY_SNAPSHOT, limits=MANY_PARTS)
    written = [work for events, work in steps if not events]
    follows, own = sql.execute(
        "SELECT count(*) FILTER (WHERE subject <> object), count(DISTINCT subject) FILTER (WHERE subject = object) "
        "FROM events"
    ).fetchone() or (0, 0)
    assert sum(written) == pytest.approx(follows + own) and own > 5
    lists = written[written.index(own) + 1 :]
    assert max(lists) < 100 < sum(lists)


@pytest.mark.parametrize("after", [False, True])
async def test_build_killed_at_any_step_is_resumed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, after: bool
) -> None:
    see = (raw_redis.flushdb), (lambda: actual(raw_redis, BY_SNAPSHOT)), (lambda: restores(raw_redis))
    await check_resumed_after_each_step(engine, redis, sql, *see, after=after)


async def test_parts_that_redis_loses_are_noticed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes back without its last writes while the position of the partition is still 0, at any step."""
    await populate(engine, 8)
    at, calls = 0, 1
    while at < calls:
        raw_redis.flushdb()
        await prepared(engine, redis, BY_SNAPSHOT)
        saved, calls = dict[bytes, bytes](), 0

        async def lose(_: Script, __: Sequence[str], ___: Sequence[Any], proceed: Proceed) -> Any:
            nonlocal calls
            if calls == at:  # noqa: B023
                saved.update({key: raw_redis.dump(key) for key in raw_redis.keys("{g3.*")})  # noqa: B023
            if calls == at + 3:  # noqa: B023
                raw_redis.flushdb()
                for key, value in saved.items():  # noqa: B023
                    raw_redis.restore(key, 0, value)
            calls += 1
            return await proceed()

        await filled(engine, intercepted(redis, lose), BY_SNAPSHOT, batch=50, limits=MANY_PARTS)
        assert actual(raw_redis, BY_SNAPSHOT) == expected(sql, BY_SNAPSHOT), at
        at += 1
    assert at > 20 and "lost a part of its snapshot" in caplog.text


async def test_build_of_a_log_that_lost_its_tail_begins_anew(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain
) -> None:
    """Its lists are as of a position that the log has lost, although the partitions are still at 0."""
    await write(engine, (1, 2), (3, 4), (5, 6), (7, 8))
    end = (await log.head(engine)).position
    await write(engine, *[(63, other) for other in range(20, 40)])

    async def stopped() -> None:
        if restores(raw_redis) > before:  # partition 63, the first one, has a list now
            raise Fenced("the build lease")

    before = restores(raw_redis)
    with pytest.raises(Fenced):
        await healed(engine, redis, 1, stopped)
    assert set(positions(raw_redis, View(1, 64))) == {0}
    lose_tail(sql, end)
    await write(engine, *[(11, other) for other in range(20, 41)])
    view = await healed(engine, redis, 2)
    assert view.generation == 2 and actual(raw_redis, view) == expected(sql, view)
    assert not raw_redis.keys("{g1.*")


async def test_process_killed_at_any_step_leaves_no_file_and_is_resumed(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    """By SIGKILL, twice; what it had written is complete in the end although follows ended in between."""
    numbers = await populate(engine, 8)
    with killed_builds(database_url, redis_url, str(tmp_path)) as builds:
        status, at = signal.SIGKILL, 0
        while status == signal.SIGKILL:
            raw_redis.flushdb()
            await prepared(engine, redis, KILLED)
            status = signal.Signals(killed) if (killed := builds.kill_at(at, 2)) else 0  # type: ignore[assignment]
            await write(engine, (numbers[at % 7], numbers[7 - at % 7]))
            builds.kill_at(at // 2 + 3, 3)
            assert is_empty(tmp_path)
            await filled(engine, redis, KILLED, fence=4)
            assert actual(raw_redis, KILLED) == expected(sql, KILLED), at
            at += 1
    assert at > 20


async def test_view_that_loses_a_partition_before_the_switch_does_not_go_live(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new view cannot be compared with an old one; the next build makes the partition again."""
    await populate(engine)
    real = leases.next_fence

    async def lose(engine: Engine) -> int:
        raw_redis.delete(*raw_redis.keys("{g1.3}*"))
        raw_redis.hset("{g1.3}:checkpoint", mapping={"position": 0, "fence": 1})
        return await real(engine)

    with monkeypatch.context() as patch:
        patch.setattr(leases, "next_fence", lose)
        with pytest.raises(NotSwitched):
            await healed(engine, redis)
    assert await generations.live_view(redis) is None
    view = await healed(engine, redis, 2)
    assert view.generation == 1 and actual(raw_redis, view) == expected(sql, view)


async def test_rows_of_users_are_noted_as_new_as_they_are(engine: Engine, redis: RedisClient) -> None:
    """A build that was killed after it wrote them has something of the log up to there."""
    await people(engine, 20)
    await prepared(engine, redis, BY_SNAPSHOT)
    await Directory(engine).put("u3", UserChanges(bio="newer"))
    head = await log.head(engine)
    with pytest.raises(Killed):
        await filled(engine, killed_at(redis, 8), BY_SNAPSHOT)
    found = await generations.checkpoints(redis, BY_SNAPSHOT, range(4))
    assert {at and (at.position, at.rows) for at in found.values()} == {(0, (head.position, head.word))}


async def test_log_that_loses_its_tail_while_it_is_read_ends_the_build(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain
) -> None:
    """What was read before is not of this log, although no partition has any of it."""
    numbers = await people(engine, 6)
    await write(engine, *[(one, numbers[0]) for one in numbers[1:]])
    end = (await log.head(engine)).position
    await write(engine, *[(numbers[0], one) for one in numbers[1:]])
    await prepared(engine, redis, BY_SNAPSHOT)
    steps = 0

    async def lose(_: BuildProgress) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            lose_tail(sql, end)
            await write(engine, *[(numbers[5], one) for one in numbers[:5]])

    with pytest.raises(LogChanged):
        await filled(engine, redis, BY_SNAPSHOT, lose, batch=2)
    assert not raw_redis.keys("{g3.*:follow*")
