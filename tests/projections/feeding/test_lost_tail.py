"""A log that lost its tail, and checkpoints beyond the log's end: what workers do with the views, and what is kept."""

from typing import Any

import psycopg
import pytest

from commands.coordination.leases import next_fence
from commands.coordination.view_register import list_generations, set_kept
from commands.db.identity import read_server_run
from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable
from commands.events import UserFollowed, UserUnfollowed
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.errors import LogChanged
from projections.feeding import histories
from projections.feeding.feeders import Feeding
from projections.feeding.histories import keep
from projections.keys import View
from projections.projector.projector import Projector
from projections.projector.read_words import ReadWords
from projections.rebuild.rebuild import Builder
from projections.signals.job_queue import QueueSettings
from projections.verify.generation_diff import (
    FollowDifference,
    GenerationDifference,
    ProfileDifference,
    differences_between,
)
from projections.views import generations
from projections.views.feeder_record import read_record
from tests.support.fixtures import Plain
from tests.support.live_view import FAST, projecting, up_to_date_view
from tests.support.log_writes import append, register
from tests.support.lost_tail import lose_tail
from tests.support.queues import queue_of
from tests.support.rebuilds import built, healed, rebuilt
from tests.support.view_model import actual, expected
from tests.support.waiting import until

Sql = psycopg.Connection[Any]


@pytest.fixture
def queue(queue_url: str) -> QueueSettings:
    """The queue of this test."""
    return queue_of(queue_url)


async def moved_on(redis: RedisClient, before: View) -> View | None:
    """Return the live view if it is another one than before."""
    view = await generations.live_view(redis)
    return None if view in (None, before) else view


async def lose_ten_follows(engine: Engine, redis: RedisClient, sql: Sql) -> tuple[View, View, int]:
    """Lose ten follows that a worker has applied; return the views before and after, and where the loss begins."""
    people = await register(engine, *(f"p{number}" for number in range(11)))
    await append(engine, people[0], people[1], UserFollowed())
    await up_to_date_view(engine, redis)  # so that the worker has read up to here, and remembers it
    at = (await log.head(engine)).position
    for other in people[1:]:
        await append(engine, other, people[0], UserFollowed())
    before = await up_to_date_view(engine, redis)
    lose_tail(sql, at)
    await until(lambda: moved_on(redis, before))
    return before, await up_to_date_view(engine, redis), at


async def state_of(engine: Engine, view: View) -> str | None:
    """Return the state of a view in the register."""
    return {row.number: row.state for row in await list_generations(engine)}.get(view.generation)


async def differences(redis: RedisClient, old: View, new: View) -> list[GenerationDifference]:
    """Return all differences of two generations, in an order of their own."""
    return sorted([difference async for difference in differences_between(redis, old, new)], key=str)


async def test_lost_tail_is_said_once_with_numbers_and_the_views_before_are_kept(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    queue: QueueSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with projecting(engine, redis, queue, FAST):
        before, after, at = await lose_ten_follows(engine, redis, sql)
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert [line.partition(" that")[0] for line in said] == [
            f"the log has lost what it had after {at}: up to 10 events until {at + 10}"
        ]
        assert actual(raw_redis, after) == expected(sql, after)
        states = {row.number: (row.state, row.reason) for row in await list_generations(engine)}
        assert states[before.generation] == ("kept", f"kept: {said[0].partition(';')[0]}")
        assert states[after.generation][0] == "live"
        assert raw_redis.hmget(before.checkpoint(0), "position", "retired_position") == [None, b"%d" % (at + 10)]


async def test_lost_follows_are_named_by_the_difference_of_the_generations(
    engine: Engine, redis: RedisClient, sql: Sql, queue: QueueSettings
) -> None:
    """Also after rebuilds, which delete what is old but not what is kept; until it is pruned by hand."""
    async with projecting(engine, redis, queue, FAST):
        before, after, _ = await lose_ten_follows(engine, redis, sql)
    found = await differences(redis, before, after)
    assert {(one.follower.id, one.followed.id) for one in found if isinstance(one, FollowDifference)} == {
        (f"p{number}", "p0") for number in range(1, 11)
    }
    assert all(one.old and one.new is None for one in found if isinstance(one, FollowDifference)) and len(found) == 10
    for _ in range(3):
        after = await rebuilt(engine, redis, queue)
    assert await differences(redis, before, after) == found
    async with Builder(engine, redis, queue) as builder:
        assert before.generation in await builder.prune()
    assert await generations.view_position(redis, before) is None


async def test_log_that_has_grown_past_what_the_views_applied_is_noticed(
    engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain, queue: QueueSettings
) -> None:
    """The lost positions are used again, for other events, before the worker looks: none of them is mixed in."""
    async with projecting(engine, redis, queue, FAST) as loop:
        one, two, three, four = await register(engine, "a", "b", "c", "d")
        at = (await log.head(engine)).position
        await append(engine, one, two, UserFollowed())
        before = await up_to_date_view(engine, redis)
        with sql.transaction():
            lose_tail(sql, at)
            sql.execute(
                """SELECT append_events(ARRAY[%s, %s], ARRAY[%s, %s], ARRAY[1, 1], ARRAY['UserFollowed', 'UserFollowed']
                ::event_type[], ARRAY[NULL, NULL]::jsonb[], ARRAY[NULL, NULL]::uuid[], ARRAY[NULL, NULL]::bytea[])""",
                [three, four, four, three],
            )
        loop.wake()
        await until(lambda: moved_on(redis, before))
        after = await up_to_date_view(engine, redis)
        assert actual(raw_redis, after) == expected(sql, after)
        assert not raw_redis.exists(after.following(one))


async def test_loss_that_the_views_had_not_applied_builds_nothing(
    engine: Engine, redis: RedisClient, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    read = ReadWords()
    one, two = await register(engine, "a", "b")
    head = await log.head(engine)
    view = await rebuilt(engine, redis, queue_of("unix:///nowhere.sock?db=0"))
    read.add(head.position, head.word)
    recorded = await append(engine, one, two, UserFollowed())
    read.add(recorded[0].position, (await log.head(engine)).word)
    lose_tail(sql, head.position)
    assert await Feeding(engine, redis, read).judge(await read_record(redis), view)
    assert await generations.live_view(redis) == view
    assert f"after {head.position}; the views had applied none of it" in caplog.text
    assert await read.lost_after(engine) is None


async def test_loss_is_not_settled_while_a_partition_is_away_that_may_hold_it(
    engine: Engine, redis: RedisClient, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server returns with what the log has lost: the database is the same one, and the view is kept aside."""
    one, two = await register(engine, "a", "b")
    head, read = await log.head(engine), ReadWords()
    await append(engine, one, two, UserFollowed())
    view = await rebuilt(engine, redis, queue_of("unix:///nowhere.sock?db=0"))
    assert await read.begin(engine)
    feeding = Feeding(engine, redis, read)
    lose_tail(sql, head.position)
    feeding.confirmed_run = await read_server_run(engine)
    with monkeypatch.context() as patch:
        patch.setattr(histories, "LOOK_TIMEOUT_S", 0)  # no server answers in time
        with pytest.raises(ViewsUnavailable, match="64 partitions are away that may hold what the log has lost"):
            await feeding.judge(await read_record(redis), view)
    assert await read.lost_after(engine) == head.position
    assert await feeding.judge(await read_record(redis), view)
    assert await state_of(engine, view) == "kept" and await read.lost_after(engine) is None


@pytest.mark.parametrize("fails", ["reachable", "retire"])
async def test_loss_is_reported_with_numbers_though_a_server_fails_meanwhile(
    engine: Engine, redis: RedisClient, sql: Sql, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    """Before the view is judged, or after the pointer was removed; the next try does the rest."""
    one, two = await register(engine, "a", "b")
    head, read = await log.head(engine), ReadWords()
    await append(engine, one, two, UserFollowed())
    view = await rebuilt(engine, redis, queue_of("unix:///nowhere.sock?db=0"))
    assert await read.begin(engine)
    lose_tail(sql, head.position)
    feeding = Feeding(engine, redis, read)

    async def away(*_: object) -> None:
        raise ViewsUnavailable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generations, fails, away)
        with pytest.raises(ViewsUnavailable):
            await feeding.judge(await read_record(redis), view)
    await feeding.judge(await read_record(redis), view)
    assert caplog.text.count(f"after {head.position}: up to 1 events until {head.position + 1}") == 1
    assert await generations.live_view(redis) is None and await read.lost_after(engine) is None


@pytest.mark.parametrize("word", ["kept", "removed"])
async def test_one_checkpoint_beyond_the_head_is_lost_and_the_views_are_built_anew(
    engine: Engine,
    redis: RedisClient,
    sql: Sql,
    raw_redis: Plain,
    queue: QueueSettings,
    caplog: pytest.LogCaptureFixture,
    word: str,
) -> None:
    """A worker finds it within a second; nothing is kept, since the log has all that the worker has read."""
    people = await register(engine, *(f"p{number}" for number in range(20)))
    async with projecting(engine, redis, queue, FAST):
        before = await up_to_date_view(engine, redis)
        spoiled = before.checkpoint(before.partition_of(people[9]))
        raw_redis.hset(spoiled, "position", 99_999)
        if word == "removed":
            raw_redis.hdel(spoiled, "word")
        await until(lambda: moved_on(redis, before))
        await append(engine, people[9], people[1], UserFollowed())
        after = await up_to_date_view(engine, redis)
        assert actual(raw_redis, after) == expected(sql, after)
    place = f"partition {before.partition_of(people[9])} of generation {before.generation}"
    assert f"{place} is at position 99999, beyond the log's end" in caplog.text
    assert [row.state for row in await list_generations(engine)] == ["live"]


async def test_number_that_another_person_has_is_two_persons_in_the_differences(
    engine: Engine, redis: RedisClient, sql: Sql, queue: QueueSettings
) -> None:
    async with projecting(engine, redis, queue, FAST):
        one, two = await register(engine, "a", "b")
        at = (await log.head(engine)).position
        (lost,) = await register(engine, "lost")
        await append(engine, one, lost, UserFollowed())
        await append(engine, one, two, UserFollowed())
        before = await up_to_date_view(engine, redis)
        lose_tail(sql, at)
        await until(lambda: moved_on(redis, before))
        (number,) = await register(engine, "new")
        assert number == lost
        await append(engine, one, number, UserFollowed())
        await append(engine, one, two, UserFollowed(), UserUnfollowed(), UserFollowed())
        after = await up_to_date_view(engine, redis)
    found = await differences(redis, before, after)
    (profile,) = [one for one in found if isinstance(one, ProfileDifference)]
    assert profile.old and profile.new and (profile.old.id, profile.new.id) == ("lost", "new")
    follows = [one for one in found if isinstance(one, FollowDifference)]
    assert {(one.followed.id, one.old is None, one.new is None) for one in follows} == {
        ("b", False, False),
        ("lost", False, True),
        ("new", True, False),
    }


async def test_loss_is_noticed_before_the_log_has_grown_past_what_was_read(
    engine: Engine, redis: RedisClient, sql: Sql
) -> None:
    """Another worker's partitions may have what this one has read and lost."""
    one, two = await register(engine, "a", "b")
    view = await rebuilt(engine, redis, queue_of("unix:///nowhere.sock?db=0"))
    head, read = await log.head(engine), ReadWords()
    await append(engine, one, two, UserFollowed())
    assert await read.begin(engine)
    lose_tail(sql, head.position)
    await append(engine, two, one, UserFollowed(), UserUnfollowed())
    (fence,) = sql.execute("SELECT nextval('fences')").fetchone() or (0,)
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), fence), read_words=read)
    with pytest.raises(LogChanged):
        await projector.load()
    assert await read.lost_after(engine) == head.position


async def test_kept_view_is_kept_by_a_build_that_began_to_replace_it_before(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    """A server lost a partition, and then the log its tail."""
    view = await built(engine, redis, queue)
    raw_redis.hdel(view.checkpoint(3), "position")
    fence, kept = await next_fence(engine), list[bool]()

    async def keep_meanwhile() -> None:
        if not kept:
            kept.append(await keep(engine, redis, view, "lost"))

    await healed(engine, redis, fence, keep_meanwhile, batch=7)
    assert kept == [True] and await state_of(engine, view) == "kept"
    assert raw_redis.hexists(view.checkpoint(0), "retired_position")


async def test_register_is_not_corrected_while_the_live_view_is_taken_away(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """A worker has marked it and not yet removed the pointer."""
    view = await built(engine, redis, queue)
    await set_kept(engine, view.generation, view.partitions, "lost")
    async with Builder(engine, redis, queue) as builder:
        assert await builder.prune() == {}
    assert await state_of(engine, view) == "kept"


async def test_words_that_are_remembered_reach_back_with_fewer_and_fewer(engine: Engine) -> None:
    read = ReadWords(remembered_max=16)
    people = await register(engine, "a", "b")
    for _ in range(40):
        await append(engine, people[0], people[1], UserFollowed(), UserUnfollowed())
    words = await log.words_at(engine, range(1, 83))
    for position, word in words.items():
        read.add(position, word)
    assert await read.lost_after(engine) is None
    read.add(83, 4711)
    assert await read.lost_after(engine) == await read.lost_after(engine) == 82
    read.forget(82)
    assert await read.lost_after(engine) is None
