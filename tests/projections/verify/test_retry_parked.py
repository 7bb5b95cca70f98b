"""Retry of parked pairs: the view holds the pair as the log has it, and its events are unparked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest

from commands.coordination import parked, view_register
from commands.coordination.pause import pause_projection, resume_projection
from commands.db.postgres import Engine
from commands.events import AnyEvent, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.users import BroadcastChanges, UserChanges
from projections.client.client import RedisClient, Script
from projections.errors import StillParked
from projections.projector.parking import ParkedPairs
from projections.verify.repair import REPAIR
from projections.verify.retry_parked import retry, retry_readable, skip
from projections.views import generations
from tests.support.fixtures import Plain
from tests.support.intercepted_redis import Killed, Proceed, intercepted, killed_at
from tests.support.log_writes import append, register
from tests.support.random_histories import VIEW, World
from tests.support.unreadable_events import append_behind, make_readable, write_unknown, write_unreadable
from tests.support.view_model import actual, expected, positions


@pytest.fixture
async def world(
    engine: Engine, redis: RedisClient, sql: psycopg.Connection[Any], raw_redis: Plain
) -> AsyncIterator[World]:
    """Eight users, a prepared view, a worker."""
    begun = World(engine, redis, sql, raw_redis)
    await begun.begin()
    assert await register(engine, *[f"u{number}" for number in range(1, 9)]) == list(range(1, 9))
    await begun.catch_up()
    yield begun
    await begun.end()


async def parked_positions(world: World) -> list[int]:
    """Return the parked positions."""
    return [row.position for row in await parked.read_parked(world.engine)]


async def assert_clean(world: World) -> None:
    """Check that nothing is parked, every partition is at the log's end, and the view equals the log."""
    await world.catch_up()
    assert await parked_positions(world) == []
    assert actual(world.raw_redis, VIEW) == expected(world.sql, VIEW)
    assert positions(world.raw_redis, VIEW) == [(await log.head(world.engine)).position] * 4


async def test_retry_of_readable_event_unparks_its_pair(world: World) -> None:
    """With all that was parked behind it; from then on the pair is projected like any other."""
    position = write_unreadable(world.sql, (1, 2), 1)
    await append(world.engine, 2, 3, UserFollowed())
    await world.catch_up()
    later = await append_behind(world.engine, (1, 2), 2, UserUnfollowed(), UserFollowed(notifications=True))
    await world.catch_up()
    assert await parked_positions(world) == [position, later - 1, later]
    assert not world.raw_redis.exists(VIEW.following(1), VIEW.followers(2))
    unreadable = write_unreadable(world.sql, (1, 4), 1)
    await world.catch_up()
    with pytest.raises(StillParked, match="cannot be read"):
        await retry(world.engine, world.redis, VIEW, 1, 4)
    make_readable(world.sql, position)
    assert await retry(world.engine, world.redis, VIEW, 1, 2) == 3
    assert await parked_positions(world) == [unreadable]
    await append(world.engine, 1, 2, UserUnfollowed())
    make_readable(world.sql, unreadable)
    assert await retry(world.engine, world.redis, VIEW, 1, 4) == 1
    await assert_clean(world)


async def test_retry_on_list_of_other_type_rebuilds_the_list(world: World) -> None:
    """With the entries of before, and those that were refused because of the type."""
    for subject in (1, 3, 4):
        await append(world.engine, subject, 2, UserFollowed())
    await world.catch_up()
    world.raw_redis.set(VIEW.followers(2), "not a list")
    for subject in (5, 6):
        await append(world.engine, subject, 2, UserFollowed())
    await append(world.engine, 3, 2, UserUnfollowed())
    await append(world.engine, 7, 8, UserFollowed())
    await world.catch_up()
    pairs = {(row.subject, row.object) for row in await parked.read_parked(world.engine)}
    assert pairs == {(5, 2), (6, 2), (3, 2)} and world.raw_redis.exists(VIEW.followers(8))
    for pair in sorted(pairs):
        await retry(world.engine, world.redis, VIEW, *pair)
    await assert_clean(world)


@pytest.mark.parametrize("key", ["logins", "live", "last_broadcast"])
async def test_retry_on_shared_key_of_other_type_rebuilds_it_for_all_users(world: World, key: str) -> None:
    """It holds a field of every user of the partition, not only of the user whose event was refused."""
    for id_ in ("u1", "u5", "u2"):
        await world.people.put_broadcast(id_, BroadcastChanges(viewers=3))
    await world.catch_up()
    name = getattr(VIEW, key)(1)
    world.raw_redis.delete(name)
    world.raw_redis.set(name, "nothing that belongs here")
    await world.people.put("u1", UserChanges(username="renamed"))
    await world.catch_up()
    assert [(row.subject, row.object) for row in await parked.read_parked(world.engine)] == [(1, 1)]
    await retry(world.engine, world.redis, VIEW, 1, 1)
    await assert_clean(world)


async def test_retry_of_user_event_writes_the_users_row(world: World) -> None:
    """Logins given up behind it are removed. Until it can be read the pair stays parked, as a rebuild would park it."""
    position = write_unreadable(world.sql, (3, 3), 2, "BroadcastChanged")
    await world.people.put("u3", UserChanges(username="other", bio="new"))
    await world.catch_up()
    assert len(await parked_positions(world)) == 2 and world.raw_redis.exists(VIEW.login("u3"))
    with pytest.raises(StillParked, match=f"position {position}: BroadcastChanged cannot be read"):
        await retry(world.engine, world.redis, VIEW, 3, 3)
    make_readable(world.sql, position)
    assert await retry(world.engine, world.redis, VIEW, 3, 3) == 2
    await assert_clean(world)


async def test_retry_and_rebuild_leave_a_pair_parked_for_the_same_event(world: World) -> None:
    """A readable event behind an unreadable one does not let the pair go: a replay would park both again."""
    position = write_unknown(world.sql, (1, 2), 1)
    later = await append_behind(world.engine, (1, 2), 2, UserFollowed())
    await world.catch_up()
    with pytest.raises(StillParked, match=f"position {position}: UserMuted cannot be read"):
        await retry(world.engine, world.redis, VIEW, 1, 2)
    for partition in range(4):
        world.raw_redis.hset(VIEW.checkpoint(partition), mapping={"position": 0, "recorded_at": 0})
    await world.start_successor()
    await world.catch_up()
    assert await parked_positions(world) == [position, later]


async def test_pairs_that_this_version_reads_are_retried_and_others_stay(world: World) -> None:
    """Those that were parked for another reason are left to an operator. During a build or a pause nothing is done."""
    first = write_unknown(world.sql, (1, 2), 1)
    await append_behind(world.engine, (1, 2), 2, UserUnfollowed(), UserFollowed(notifications=True))
    unknown = write_unknown(world.sql, (3, 4), 1)
    user = write_unreadable(world.sql, (5, 5), 2, "BroadcastChanged")
    await world.catch_up()
    (refused,) = await append(world.engine, 6, 7, UserFollowed())
    await parked.park(world.engine, [(refused.position, 6, 7, "refused")])
    assert await retry_readable(world.engine, world.redis) == []
    make_readable(world.sql, first)
    make_readable(world.sql, user)
    assert await retry_readable(world.engine, world.redis) == []  # VIEW is not live yet
    assert await generations.switch(world.redis, VIEW, 1, 0)
    building = await view_register.register_generation(world.engine, 4, "a test")
    assert await retry_readable(world.engine, world.redis) == []
    await view_register.set_state(world.engine, building, "deleted")
    await pause_projection(world.engine, "kim", "a test")
    assert await retry_readable(world.engine, world.redis) == []
    await resume_projection(world.engine)
    assert await retry_readable(world.engine, world.redis, 1) == [(1, 2)]
    assert await retry_readable(world.engine, world.redis) == [(5, 5)]
    assert await parked_positions(world) == [unknown, refused.position]
    assert world.raw_redis.zcard(VIEW.followers(2)) == 1


async def test_skipped_event_is_left_out_of_views_and_of_replay(world: World) -> None:
    """The operator's name and reason are kept."""
    await append(world.engine, 1, 2, UserFollowed())
    position = write_unreadable(world.sql, (1, 2), 2)
    await world.catch_up()
    before = actual(world.raw_redis, VIEW)
    (row,) = await parked.read_parked(world.engine)
    await skip(world.engine, world.redis, VIEW, row, "ann", "a test")
    assert actual(world.raw_redis, VIEW) == before and await parked_positions(world) == []
    (skipped,) = await parked.read_parked(world.engine, skipped=True)
    assert (skipped.position, skipped.skipped_by, skipped.skipped_why) == (position, "ann", "a test")
    await append_behind(world.engine, (1, 2), 3, UserUnfollowed(), UserFollowed(notifications=True))
    await world.catch_up()
    after = actual(world.raw_redis, VIEW)
    assert await parked_positions(world) == [] and after != before
    for key in world.raw_redis.scan_iter(count=1000):
        if not key.endswith(b":checkpoint"):
            world.raw_redis.delete(key)
    for partition in range(4):
        world.raw_redis.hset(VIEW.checkpoint(partition), mapping={"position": 0, "recorded_at": 0})
    await world.start_successor()
    await world.catch_up()
    assert actual(world.raw_redis, VIEW) == after and await parked_positions(world) == []


async def test_skip_unparks_events_behind_it(world: World) -> None:
    """At once, as the log has them without the skipped event."""
    write_unreadable(world.sql, (1, 2), 1)
    await append_behind(world.engine, (1, 2), 2, UserUnfollowed(), UserFollowed(created_at=77))
    await world.catch_up()
    row = (await parked.read_parked(world.engine))[0]
    assert await skip(world.engine, world.redis, VIEW, row, "ann", "a test") == 2
    assert world.raw_redis.zrange(VIEW.followers(2), 0, -1, withscores=True) == [(b"11", 154.0)]


async def test_replay_projects_events_before_the_parked_one(world: World) -> None:
    """Only events of the pair from the parked one on are parked."""
    await append(world.engine, 1, 2, UserFollowed())
    write_unreadable(world.sql, (1, 2), 2)
    await world.catch_up()
    assert world.raw_redis.exists(VIEW.followers(2)) and len(await parked_positions(world)) == 1
    world.raw_redis.delete(VIEW.followers(2), VIEW.following(1))
    for partition in range(4):
        world.raw_redis.hset(VIEW.checkpoint(partition), mapping={"position": 0, "recorded_at": 0})
    await world.start_successor()
    await world.catch_up()
    assert world.raw_redis.exists(VIEW.followers(2), VIEW.following(1)) == 2 and len(await parked_positions(world)) == 1


async def test_event_after_retry_is_not_parked_by_outdated_worker(world: World) -> None:
    """The statement that would park the event checks in the table that its pair is still parked."""
    position = write_unreadable(world.sql, (1, 2), 1)
    await world.catch_up()
    pairs = ParkedPairs(world.engine, world.redis)
    await pairs.refresh()
    make_readable(world.sql, position)
    await retry(world.engine, world.redis, VIEW, 1, 2)
    written = await append(world.engine, 1, 2, UserUnfollowed())
    assert list(await pairs.split(written)) == written and await parked_positions(world) == []
    await assert_clean(world)


async def test_events_appended_during_retry_are_unparked_too(world: World) -> None:
    """The worker parks them behind the pair, until a round of the retry in which none is appended."""
    position = write_unreadable(world.sql, (1, 2), 1)
    await world.catch_up()
    make_readable(world.sql, position)
    events: list[AnyEvent] = [UserUnfollowed(), UserFollowed(notifications=True), UserUnfollowed(), UserFollowed()]

    async def on_run(script: Script, keys: Sequence[str], _: Sequence[Any], proceed: Proceed) -> Any:
        answer = await proceed()
        if script is REPAIR and keys[0] == VIEW.checkpoint(2) and events:  # both sides are repaired
            await append(world.engine, 1, 2, events.pop(0))
            await world.catch_up()
        return answer

    redis = intercepted(world.redis, on_run)
    assert await asyncio.wait_for(retry(world.engine, redis, VIEW, 1, 2), 10) == 5
    assert not events
    await assert_clean(world)


async def test_rename_during_retry_is_unparked_with_its_look_up(world: World) -> None:
    """The login was not known when the retry began, so its look-up is repaired in a second round."""
    position = write_unreadable(world.sql, (3, 3), 2, "BroadcastChanged")
    await world.catch_up()
    make_readable(world.sql, position)
    renamed = False

    async def on_run(script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        nonlocal renamed
        if not renamed:  # the cells have been listed, and no partition is frozen yet
            renamed = True
            await world.people.put("u3", UserChanges(username="other"))
            await world.catch_up()
        return await proceed()

    assert await retry(world.engine, intercepted(world.redis, on_run), VIEW, 3, 3) == 2
    await assert_clean(world)


async def test_retry_writes_look_ups_of_row_newer_than_its_partition(world: World) -> None:
    """The newer event is a broadcast, and projecting that does not write look-ups."""
    position = write_unreadable(world.sql, (3, 3), 2, "BroadcastChanged")
    await world.people.put("u3", UserChanges(username="other"))
    await world.catch_up()
    make_readable(world.sql, position)
    await world.people.put_broadcast("u3", BroadcastChanges(viewers=3))
    assert await retry(world.engine, world.redis, VIEW, 3, 3) == 2
    await assert_clean(world)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [0, 1])
async def test_retry_killed_between_partitions_can_be_repeated(world: World, call: int, after: bool) -> None:
    """The pair stays parked until both sides are repaired."""
    position = write_unreadable(world.sql, (1, 2), 1)
    await world.catch_up()
    make_readable(world.sql, position)
    redis = killed_at(world.redis, call, after=after, script=REPAIR)
    with pytest.raises(Killed):
        await retry(world.engine, redis, VIEW, 1, 2)
    assert await parked_positions(world) == [position]
    await retry(world.engine, world.redis, VIEW, 1, 2)
    await assert_clean(world)
