"""Promise 3: each event takes effect in each view exactly once, whatever happens to workers and to Redis meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings

from commands import log, parking
from commands.events import UserFollowed, UserUnfollowed
from commands.postgres import Engine
from projections import catch_up, generations
from projections.catch_up import Broken, Fenced, LogChanged, Projector, ViewLost
from projections.store import Store
from tests.commands.writing import append
from tests.opened import Plain, few
from tests.projections.histories import VIEW, Step, World, settled, steps
from tests.projections.model import actual, expected, positions
from tests.projections.test_unparking import append_behind, write_badly
from tests.waiting import until

Sql = psycopg.Connection[Any]


@pytest.fixture
async def world(engine: Engine, store: Store, sql: Sql, redis: Plain) -> AsyncIterator[World]:
    """Not begun yet: each example begins it anew."""
    made = World(engine, store, sql, redis)
    yield made
    await made.end()


@settings(few, max_examples=40)
@given(steps)
@example([("follow", 0, 1), ("follow", 1, 2), ("die", 0, 0), ("unfollow", 0, 1), ("zombie", 3, 0), ("project", 0, 0)])
@example([("rename", 0, 0), ("project", 3, 3), ("rename", 0, 1), ("die", 3, 3), ("rename", 1, 0), ("project", 3, 3)])
@example([("rename", 0, 0), ("live", 0, 3), ("project", 3, 3), ("erase", 0, 0), ("die", 1, 0), ("rename", 0, 1)])
@example([("follow", 0, 1), ("save", 0, 0), ("follow", 1, 1), ("project", 3, 3), ("lose", 1, 0), ("project", 0, 0)])
async def test_a_view_is_the_fold_of_the_log(world: World, history: list[Step]) -> None:
    """Whatever is written, and whoever dies, wakes up again or forgets in between."""
    await world.begin()
    await world.live(history)
    await settled(world)
    before = world.redis.dbsize(), actual(world.redis, VIEW)
    await world.succeed()
    await settled(world)
    assert (world.redis.dbsize(), actual(world.redis, VIEW)) == before
    await world.end()


async def test_batches_of_any_size_come_to_the_same(world: World) -> None:
    """One by one, or everything at once."""
    await world.begin()
    history: list[Step] = [("follow", a, b) for a in range(4) for b in range(4)]
    history += [("rename", a, a) for a in range(3)] + [("unfollow", a, a) for a in range(4)]
    await world.live(history)
    found = []
    for size in (1, 3, 1000):
        world.redis.flushdb()
        await generations.prepare(world.store, VIEW, world.epoch, 0)
        await world.succeed()
        while await world.projector.step(size):
            pass
        await world.projector.settle()
        found.append(actual(world.redis, VIEW))
    assert found[0] == found[1] == found[2] == expected(world.sql, VIEW)


async def test_a_successor_fences_the_one_before(world: World) -> None:
    """From the moment he has loaded, in every lane, also those in which nothing happens."""
    await world.begin()
    old = world.projector
    await world.succeed()
    checkpoints = await generations.checkpoints(world.store, VIEW, range(VIEW.lanes))
    assert {checkpoint and checkpoint.fence for checkpoint in checkpoints.values()} == {world.fence}
    await append(world.engine, 1, 2, UserFollowed())
    with pytest.raises(Fenced):
        await old.step()
    with pytest.raises(Fenced):
        await old.check()
    with pytest.raises(Fenced):
        await old.load()
    assert actual(world.redis, VIEW) == {}
    await settled(world)


async def test_an_event_that_comes_while_reading_ahead_is_seen_in_the_next_step(world: World) -> None:
    """A full batch lets the next one be read before it is asked for; what was committed since must not wait."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed(), UserUnfollowed())
    assert await world.projector.step(2) == 2
    ahead = world.projector._ahead
    assert ahead is not None
    await until(ahead[1].done)
    await append(world.engine, 1, 2, UserFollowed())
    assert await world.projector.step(2) == 1
    await settled(world)


async def test_a_fold_made_ahead_is_for_lanes_that_stand_level(world: World) -> None:
    """A lane that turns out to be further than what was folded must not be taken back."""
    await world.begin()
    await world.live([("follow", 0, 1), ("follow", 1, 2), ("unfollow", 0, 1), ("follow", 2, 3), ("follow", 0, 1)])
    one = world.projector
    two = Projector(world.engine, world.store, VIEW, {2: one.fences[2]}, world.epoch)
    await two.load()
    assert await one.step(1) == 1
    while await two.step():
        pass
    assert await stepped(one) == 4
    await settled(world)


async def test_a_fold_made_ahead_is_without_what_waits(world: World) -> None:
    """What waits behind an event that cannot be read is folded before that event is parked."""
    await world.begin()
    bad = write_badly(world, (1, 2), 1)
    await append_behind(world, (1, 2), 2, UserFollowed())
    await append(world.engine, 1, 3, UserFollowed())
    assert await stepped(world.projector) == 3
    assert [row.position for row in await parking.parked(world.engine)] == [bad, bad + 1]
    assert list(actual(world.redis, VIEW)) == [VIEW.following(1), VIEW.followers(3)]


async def stepped(projector: Projector) -> int:
    """Every event by itself; each is read and folded when the one before is applied. How many they were."""
    events = 0
    while count := await projector.step(1):
        events += count
        await until(lambda: projector._ahead is None or projector._ahead[1].done())
    return events


async def test_a_lost_tail_is_gone_back_to(world: World) -> None:
    """Redis comes back as it was earlier: the next check sees it, and the events are projected again."""
    await world.begin()
    await world.live([("follow", 0, 1), ("rename", 0, 0), ("project", 3, 3), ("settle", 0, 0), ("save", 0, 0)])
    at = positions(world.redis, VIEW)
    await world.live([("unfollow", 0, 1), ("rename", 0, 1), ("project", 3, 3), ("settle", 0, 0), ("lose", 0, 0)])
    assert positions(world.redis, VIEW) == at
    await world.projector.check()
    assert world.projector.position == at[0]
    await settled(world)


async def test_a_lane_is_stamped_with_its_own_events_time(world: World) -> None:
    """One lane went back and is being caught up; others that nothing touches are settled beyond the batch at hand."""
    await world.begin()
    await world.live([("save", 0, 0), ("follow", 0, 1), ("project", 3, 3), ("follow", 0, 2), ("project", 3, 3)])
    await world.live([("lose", 1, 0), ("check", 0, 0), ("project", 0, 0), ("settle", 0, 0)])
    await world.succeed()
    await settled(world)


async def test_a_touched_lane_shows_its_lost_tail_by_itself(world: World) -> None:
    """Without a check: the next batch for it is refused as REWOUND, and is done again from where the lane stands."""
    await world.begin()
    await world.live([("follow", 0, 1), ("project", 3, 3), ("settle", 0, 0), ("save", 0, 0)])
    await world.live([("unfollow", 0, 1), ("project", 3, 3), ("lose", 0, 0), ("follow", 0, 1)])
    while await world.projector.step():
        pass
    await world.projector.settle()
    assert actual(world.redis, VIEW) == expected(world.sql, VIEW)


@pytest.mark.parametrize("lane", range(4))
async def test_a_missing_checkpoint_is_a_lost_view(world: World, lane: int) -> None:
    """Never a start at 0: who loads, checks or applies is told that the view must be built anew."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed())
    await append(world.engine, 3, 4, UserFollowed())
    world.redis.delete(VIEW.checkpoint(lane))
    for call in (world.projector.check, world.projector.load, world.projector.step):
        with pytest.raises(ViewLost) as lost:
            await call()
        assert lost.type is ViewLost, "the log has not changed, and the lanes that are left may be served"
    assert not world.redis.exists(VIEW.checkpoint(lane))


async def test_views_of_another_log_are_noticed(world: World) -> None:
    """Another database behind the same Redis: nothing of it is taken for one's own."""
    await world.begin()
    for lane in range(VIEW.lanes):
        world.redis.hset(VIEW.checkpoint(lane), "epoch", "00000000-0000-0000-0000-000000000000")
    await append(world.engine, 1, 2, UserFollowed())
    for call in (world.projector.load, world.projector.check, world.projector.step):
        with pytest.raises(ViewLost):
            await call()


async def test_a_log_restored_to_an_older_state_is_noticed(world: World) -> None:
    """The same positions, other events: who made the views from the old ones must not go on."""
    await world.begin()
    await world.live([("follow", 0, 1), ("follow", 0, 2), ("project", 3, 3), ("settle", 0, 0)])
    world.sql.execute(
        """SET session_replication_role = replica; DELETE FROM events WHERE position = 2;
        SELECT setval('events_position', 1); SET session_replication_role = origin"""
    )
    for _ in range(2):  # first the log is shorter than the views, then it holds something else there
        with pytest.raises(LogChanged):
            await world.succeed()
        await append(world.engine, 7, 8, UserFollowed())


async def test_a_projector_takes_its_own_lanes_only(world: World) -> None:
    """Two workers with half of the lanes each: together they make the whole view, and neither touches the other's."""
    await world.begin()
    await world.live([("follow", a, b) for a in range(4) for b in range(4)] + [("rename", 0, 0), ("live", 0, 1)])
    halves = [
        Projector(world.engine, world.store, VIEW, dict.fromkeys(lanes, 10), world.epoch) for lanes in ((0, 2), (1, 3))
    ]
    for half in halves:
        await half.load()
        while await half.step(5):
            pass
        await half.settle()
        await half.close()
        assert half.position == (await log.head(world.engine)).position
        if half is halves[0]:
            end = half.position
            assert positions(world.redis, VIEW) == [end, 0, end, 0]
            assert all(name.startswith(("{g1.0}", "{g1.2}")) for name in actual(world.redis, VIEW))
    assert actual(world.redis, VIEW) == expected(world.sql, VIEW)


async def test_a_held_lane_is_waited_for(world: World) -> None:
    """Somebody mends a lane for a moment: its batch waits and then goes in, the others' do not wait for long."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed())
    world.redis.hset(VIEW.checkpoint(1), "hold", "somebody:99999999999999")
    step = asyncio.create_task(world.projector.step())
    await until(lambda: world.redis.exists(VIEW.followers(2)))
    assert not step.done() and not world.redis.exists(VIEW.following(1))
    world.redis.hdel(VIEW.checkpoint(1), "hold")
    assert await step == 1
    await settled(world)


async def test_a_lane_that_takes_nothing_is_noticed_at_once(world: World) -> None:
    """Our fence is not known there, so whoever was before us could go on."""
    await world.begin()
    world.redis.hset(VIEW.checkpoint(2), "hold", "nonsense")
    with pytest.raises(Broken, match=r"\[2\]"):
        await world.projector.load()


async def test_a_lane_that_takes_nothing_any_more_is_left_where_it_stands(world: World) -> None:
    """No event is at fault, and so none is parked; when the lane is mended, all goes on."""
    await world.begin()
    world.redis.hset(VIEW.checkpoint(2), "hold", "nonsense")
    await append(world.engine, 1, 2, UserFollowed())
    with pytest.raises(Broken, match="lane 2 takes nothing"):
        await world.projector.step()
    assert await parking.parked(world.engine) == [] and positions(world.redis, VIEW)[2] == 0
    world.redis.hdel(VIEW.checkpoint(2), "hold")
    await world.succeed()
    await settled(world)


async def test_what_is_left_of_a_refused_batch_must_be_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If not, what was at fault has not been found, and the lane stays where it stands."""
    await world.begin()
    world.redis.set(VIEW.followers(2), "not a list")
    await append(world.engine, 1, 2, UserFollowed())
    monkeypatch.setattr(catch_up, "culprits", lambda *_: [])
    with pytest.raises(Broken, match="left after parking"):
        await world.projector.step()
    assert positions(world.redis, VIEW)[2] == 0


async def test_a_lane_that_is_ahead_is_not_brought_back(world: World) -> None:
    """Lanes that stand apart come together without one of them writing down what it has had."""
    await world.begin()
    for pair in ((1, 2), (1, 4), (1, 3), (1, 6)):
        await append(world.engine, *pair, UserFollowed())
    ahead = Projector(world.engine, world.store, VIEW, {0: world.fence}, world.epoch)
    await ahead.load()
    await ahead.step(3)
    await ahead.settle()
    await ahead.close()
    await world.projector.load()
    while await world.projector.step(1):
        assert positions(world.redis, VIEW)[0] >= 3 <= world.projector.reached[0]
    await settled(world)
    await world.end()


async def test_what_was_read_ahead_is_of_no_use_behind_a_lost_tail(world: World) -> None:
    """The next batch begins where the lanes stand now, not where it was expected to begin."""
    await world.begin()
    await world._save()
    for other in (2, 3, 4, 5, 6):
        await append(world.engine, 1, other, UserFollowed())
    assert await world.projector.step(2) == 2  # full, so the third and fourth are being read
    await world._lose(0, 0)
    await world.projector.check()
    await settled(world)
    await world.end()
