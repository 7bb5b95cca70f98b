"""Promise 3: each event takes effect in each view exactly once, whatever happens to workers and to Redis meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from redis.exceptions import ResponseError

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import UserFollowed, UserUnfollowed
from commands.log import event_log as log
from commands.users import UserChanges
from projections.client.client import RedisClient, Script
from projections.errors import BatchRefused, Fenced, LogChanged, ViewLost
from projections.keys import write_word
from projections.projector.apply import APPLY
from projections.projector.batches import PART_EVENTS
from projections.projector.projector import Projector
from projections.views import generations
from tests.support.fixtures import Plain, few
from tests.support.intercepted_redis import Proceed, intercepted
from tests.support.log_writes import append, lose_tail
from tests.support.random_histories import VIEW, Step, World, assert_up_to_date, steps
from tests.support.unreadable_events import append_behind, write_unreadable
from tests.support.view_model import actual, expected, positions
from tests.support.waiting import until

Sql = psycopg.Connection[Any]


@pytest.fixture
async def world(engine: Engine, redis: RedisClient, sql: Sql, raw_redis: Plain) -> AsyncIterator[World]:
    """A world that is not begun yet: each test or example begins it."""
    made = World(engine, redis, sql, raw_redis)
    yield made
    await made.end()


@settings(few, max_examples=40)
@given(steps)
@example([("follow", 0, 1), ("follow", 1, 2), ("kill", 0, 0), ("unfollow", 0, 1), ("resume", 3, 0), ("project", 0, 0)])
@example([("rename", 0, 0), ("project", 3, 3), ("rename", 0, 1), ("kill", 3, 3), ("rename", 1, 0), ("project", 3, 3)])
@example([("rename", 0, 0), ("broadcast", 0, 3), ("project", 3, 3), ("erase", 0, 0), ("kill", 1, 0), ("rename", 0, 1)])
@example([("follow", 0, 1), ("save", 0, 0), ("follow", 1, 1), ("project", 3, 3), ("restore", 1, 0), ("project", 0, 0)])
async def test_view_after_any_history_is_fold_of_log(world: World, history: list[Step]) -> None:
    """Whatever is written, and whenever workers are killed or resumed and Redis loses writes."""
    await world.begin()
    await world.run(history)
    await assert_up_to_date(world)
    before = world.raw_redis.dbsize(), actual(world.raw_redis, VIEW)
    await world.start_successor()
    await assert_up_to_date(world)
    assert (world.raw_redis.dbsize(), actual(world.raw_redis, VIEW)) == before
    await world.end()


async def test_batches_of_any_size_make_same_view(world: World) -> None:
    await world.begin()
    history: list[Step] = [("follow", a, b) for a in range(4) for b in range(4)]
    history += [("rename", a, a) for a in range(3)] + [("unfollow", a, a) for a in range(4)]
    await world.run(history)
    found = []
    for size in (1, 3, 1000):
        world.raw_redis.flushdb()
        await generations.prepare(world.redis, VIEW, None, 0)
        await world.start_successor()
        while await world.projector.step(size):
            pass
        await world.projector.write_checkpoints()
        found.append(actual(world.raw_redis, VIEW))
    assert found[0] == found[1] == found[2] == expected(world.sql, VIEW)


async def test_loaded_successor_fences_its_predecessor(world: World) -> None:
    """In every partition, also in those without events."""
    await world.begin()
    old = world.projector
    await world.start_successor()
    checkpoints = await generations.checkpoints(world.redis, VIEW, range(VIEW.partitions))
    assert {checkpoint and checkpoint.fence for checkpoint in checkpoints.values()} == {world.fence}
    await append(world.engine, 1, 2, UserFollowed())
    with pytest.raises(Fenced):
        await old.step()
    with pytest.raises(Fenced):
        await old.check()
    with pytest.raises(Fenced):
        await old.load()
    assert actual(world.raw_redis, VIEW) == {}
    await assert_up_to_date(world)


async def test_event_appended_after_read_ahead_is_in_next_step(world: World) -> None:
    """After a full batch the next one is read in advance; what is committed later must not wait."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed(), UserUnfollowed())
    assert await world.projector.step(2) == 2
    ahead = world.projector.batches.ahead
    assert ahead is not None
    await until(ahead.done)
    await append(world.engine, 1, 2, UserFollowed())
    assert await world.projector.step(2) == 1
    await assert_up_to_date(world)


async def test_fold_made_ahead_is_not_applied_to_partition_further_on(world: World) -> None:
    await world.begin()
    await world.run([("follow", 0, 1), ("follow", 1, 2), ("unfollow", 0, 1), ("follow", 2, 3), ("follow", 0, 1)])
    one = world.projector
    two = Projector(world.engine, world.redis, VIEW, {2: one.fences[2]})
    await two.load()
    assert await one.step(1) == 1
    while await two.step():
        pass
    assert await stepped(one) == 4
    await assert_up_to_date(world)


async def test_fold_made_ahead_leaves_out_events_behind_parked_one(world: World) -> None:
    """They are folded before the unreadable event is parked."""
    await world.begin()
    bad = write_unreadable(world.sql, (1, 2), 1)
    await append_behind(world.engine, (1, 2), 2, UserFollowed())
    await append(world.engine, 1, 3, UserFollowed())
    assert await stepped(world.projector) == 3
    assert [row.position for row in await parked.read_parked(world.engine)] == [bad, bad + 1]
    assert set(actual(world.raw_redis, VIEW)) == {VIEW.following(1), VIEW.followers(3)}


async def stepped(projector: Projector) -> int:
    """Project event by event, each read ahead; return how many there were."""
    events = 0
    while count := await projector.step(1):
        events += count
        await until(lambda: projector.batches.ahead is None or projector.batches.ahead.done())
    return events


async def test_check_after_redis_lost_writes_continues_from_its_checkpoints(world: World) -> None:
    """Redis comes back as it was earlier, and the events are projected again."""
    await world.begin()
    await world.run([("follow", 0, 1), ("rename", 0, 0), ("project", 3, 3), ("checkpoint", 0, 0), ("save", 0, 0)])
    at = positions(world.raw_redis, VIEW)
    await world.run([("unfollow", 0, 1), ("rename", 0, 1), ("project", 3, 3), ("checkpoint", 0, 0), ("restore", 0, 0)])
    assert positions(world.raw_redis, VIEW) == at
    await world.projector.check()
    assert world.projector.position == at[0]
    await assert_up_to_date(world)


async def test_checkpoint_has_recorded_time_of_its_own_event(world: World) -> None:
    """Also while one partition catches up, and the untouched ones are beyond the batch at hand."""
    await world.begin()
    await world.run([("save", 0, 0), ("follow", 0, 1), ("project", 3, 3), ("follow", 0, 2), ("project", 3, 3)])
    await world.run([("restore", 1, 0), ("check", 0, 0), ("project", 0, 0), ("checkpoint", 0, 0)])
    await world.start_successor()
    await assert_up_to_date(world)


async def test_batch_on_partition_that_lost_writes_is_behind_and_repeated(world: World) -> None:
    """Without a check: the outcome is BEHIND, and the projector continues from the partition's position."""
    await world.begin()
    await world.run([("follow", 0, 1), ("project", 3, 3), ("checkpoint", 0, 0), ("save", 0, 0)])
    await world.run([("unfollow", 0, 1), ("project", 3, 3), ("restore", 0, 0), ("follow", 0, 1)])
    while await world.projector.step():
        pass
    await world.projector.write_checkpoints()
    assert actual(world.raw_redis, VIEW) == expected(world.sql, VIEW)


@pytest.mark.parametrize("partition", range(4))
async def test_missing_checkpoint_raises_view_lost(world: World, partition: int) -> None:
    """From load, check and step alike; a partition never begins at 0 by itself."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed())
    await append(world.engine, 3, 4, UserFollowed())
    world.raw_redis.delete(VIEW.checkpoint(partition))
    new = Projector(world.engine, world.redis, VIEW, world.projector.fences)
    for call in (new.load, world.projector.check, world.projector.load, world.projector.step):
        with pytest.raises(ViewLost) as lost:
            await call()
        assert lost.type is ViewLost, "the log has not changed, and the partitions that are left may be served"
    assert not world.raw_redis.exists(VIEW.checkpoint(partition))


async def test_checkpoint_of_another_history_raises_log_changed(world: World) -> None:
    """Another database with the same Redis."""
    await world.begin()
    for partition in range(VIEW.partitions):
        world.raw_redis.hset(VIEW.checkpoint(partition), "word", write_word(0, 1))
    await append(world.engine, 1, 2, UserFollowed())
    for call in (world.projector.load, world.projector.check, world.projector.step):
        with pytest.raises(LogChanged):
            await call()


async def test_checkpoint_without_word_counts_as_of_this_log(world: World) -> None:
    """A worker of an earlier version moves the position and leaves the word as it is."""
    await world.begin()
    await world.run([("follow", 0, 1), ("project", 3, 3), ("checkpoint", 0, 0)])
    await append(world.engine, 3, 4, UserFollowed())
    head = await log.head(world.engine)
    for partition in range(VIEW.partitions):
        world.raw_redis.hset(VIEW.checkpoint(partition), "position", head.position)
    await world.projector.check()
    await world.start_successor()
    await append(world.engine, 3, 4, UserUnfollowed())
    assert await world.projector.step() == 1
    await world.projector.write_checkpoints()
    word = (await log.head(world.engine)).word
    found = await generations.checkpoints(world.redis, VIEW, range(VIEW.partitions))
    assert {at.word for at in found.values() if at is not None} == {word}


@pytest.mark.parametrize("call", ["load", "check"])
async def test_checkpoint_beyond_the_head_raises_log_changed(world: World, call: str) -> None:
    await world.begin()
    world.raw_redis.hset(VIEW.checkpoint(0), "position", 99_999)
    with pytest.raises(LogChanged):
        await getattr(world.projector, call)()


async def test_log_restored_to_older_state_raises_log_changed(world: World) -> None:
    """The positions are the same, but the events are others."""
    await world.begin()
    await world.run([("follow", 0, 1), ("follow", 0, 2), ("project", 3, 3), ("checkpoint", 0, 0)])
    lose_tail(world.sql, 1)
    for _ in range(2):  # first the log is shorter than the view, then it has another event at that position
        with pytest.raises(LogChanged):
            await world.start_successor()
        await append(world.engine, 7, 8, UserFollowed())


@pytest.mark.parametrize("grown", [0, 1, 2, 5])
async def test_running_projector_notices_that_the_log_has_lost_its_tail(world: World, grown: int) -> None:
    """Whether the log is still shorter than the views, as long, or longer by now."""
    await world.begin()
    await world.run([("follow", 0, 1), ("follow", 0, 2), ("follow", 0, 3), ("project", 3, 3), ("checkpoint", 0, 0)])
    before = actual(world.raw_redis, VIEW)
    lose_tail(world.sql, 1)
    for number in range(grown):
        await append(world.engine, 7, 8 + number, UserFollowed())
    with pytest.raises(LogChanged):
        await world.projector.step()
    assert actual(world.raw_redis, VIEW) == before


async def test_batch_behind_another_word_than_the_view_s_is_not_applied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address leads to a copy, too: the view was made from that, and is there when the next statement asks."""
    await world.begin()
    await world.run([("follow", 0, 1), ("follow", 0, 2), ("project", 3, 3), ("checkpoint", 0, 0)])
    before, words = actual(world.raw_redis, VIEW), await log.words_at(world.engine, [1, 2])

    async def words_of_the_copy(*_: object) -> dict[int, int | None]:
        return words

    lose_tail(world.sql, 1)
    await append(world.engine, 7, 8, UserFollowed())
    await append(world.engine, 7, 9, UserFollowed())
    monkeypatch.setattr(log, "words_at", words_of_the_copy)
    with pytest.raises(LogChanged):
        await world.projector.step()
    assert actual(world.raw_redis, VIEW) == before


async def test_projector_with_partitions_apart_notices_a_lost_tail_between_them(world: World) -> None:
    """The lowest partition is where the histories still agree, the highest is beyond."""
    await world.begin()
    await world.run([("follow", 0, 1), ("follow", 0, 2), ("follow", 0, 3), ("project", 3, 3), ("checkpoint", 0, 0)])
    first = (await log.words_at(world.engine, [1]))[1]
    world.raw_redis.hset(VIEW.checkpoint(0), mapping={"position": 1, "word": write_word(1, first)})
    await world.projector.check()
    lose_tail(world.sql, 2)
    for number in range(5):
        await append(world.engine, 7, 8 + number, UserFollowed())
    with pytest.raises(LogChanged):
        await world.projector.step()


@pytest.mark.parametrize("restarts", [False, True])
async def test_row_that_was_newer_than_its_batch_belongs_to_the_history_it_was_read_in(
    world: World, restarts: bool
) -> None:
    """The batch ends where both histories agree, and its row already has what the log loses afterwards."""
    await world.begin()
    await world.people.put("ann", UserChanges())
    await world.people.put("ann", UserChanges(username="renamed"))
    assert await world.projector.step(1) == 1
    lose_tail(world.sql, 1)
    await append(world.engine, 7, 8, UserFollowed())
    await append(world.engine, 7, 9, UserFollowed())
    with pytest.raises(LogChanged):
        await (world.start_successor() if restarts else world.projector.step())


@pytest.mark.parametrize("call", ["step", "check"])
async def test_newer_row_of_another_history_is_noticed_where_another_process_has_moved_the_partition(
    world: World, call: str
) -> None:
    """A worker of a copy behind the same address, with the same fence, has written it: the position is in both logs."""
    await world.begin()
    await world.people.put("ann", UserChanges())
    await world.people.put("ann", UserChanges(username="renamed"))
    other = Projector(world.engine, world.redis, VIEW, world.projector.fences)
    await other.load()
    assert await other.step(1) == 1
    await other.close()
    lose_tail(world.sql, 1)
    await append(world.engine, 7, 8, UserFollowed())
    with pytest.raises(LogChanged):
        await (world.projector.step(1) if call == "step" else world.projector.check())


async def test_newer_row_of_another_history_is_noticed_at_the_position_that_was_left(world: World) -> None:
    """Redis has lost writes, and a worker of the copy has brought the partition to the same position again."""
    await world.begin()
    await world.run([("follow", 0, 1), ("project", 3, 3), ("checkpoint", 0, 0)])
    world.raw_redis.hset(VIEW.checkpoint(0), "rows", "15:1000015")
    with pytest.raises(LogChanged):
        await world.projector.check()


async def test_how_new_rows_are_is_kept_of_partition_that_another_process_has_moved(world: World) -> None:
    """The next batch must not write an older place over it."""
    await world.begin()
    await world.people.put("ann", UserChanges())
    await world.people.put("ann", UserChanges(username="renamed"))
    other = Projector(world.engine, world.redis, VIEW, world.projector.fences)
    await other.load()
    await other.step(1)
    await other.close()
    await world.projector.check()
    found = await generations.checkpoints(world.redis, VIEW, range(VIEW.partitions))
    newest = max(at.rows for at in found.values() if at is not None and at.rows is not None)
    assert world.projector.history.fields(1, 1)[2] == write_word(*newest)


async def test_lost_event_that_was_inserted_by_hand_is_noticed(world: World) -> None:
    """It has no word."""
    await world.begin()
    world.sql.execute(
        """INSERT INTO events (position, subject, object, version, type, recorded_at)
        VALUES (nextval('events_position'), 1, 2, 1, 'UserFollowed', now())"""
    )
    assert await world.projector.step() == 1
    lose_tail(world.sql, 0)
    with pytest.raises(LogChanged):
        await world.projector.step()


async def test_batch_read_in_parts_has_one_history(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log loses its tail, and grows again, between two parts of a batch."""
    await world.begin()
    async with world.engine.connect() as connection:
        for first in range(0, 3 * PART_EVENTS, PART_EVENTS):
            drafts = [log.Draft(1, 10 + first + number, 1, UserFollowed()) for number in range(PART_EVENTS)]
            await log.append(connection, drafts)
    read_slice, reads = log.read_slice, []

    async def losing(engine: Engine, after: int, limit: int) -> log.Slice:
        reads.append(after)
        if len(reads) == 2:
            lose_tail(world.sql, PART_EVENTS // 2)
            async with world.engine.connect() as connection:
                drafts = [log.Draft(2, 10 + number, 1, UserFollowed()) for number in range(2 * PART_EVENTS)]
                await log.append(connection, drafts)
        return await read_slice(engine, after, limit)

    monkeypatch.setattr(log, "read_slice", losing)
    await world.projector.step(3 * PART_EVENTS)
    with pytest.raises(LogChanged):
        await world.projector.step(3 * PART_EVENTS)
    assert reads[:2] == [0, PART_EVENTS]


async def test_two_projectors_write_their_own_partitions_only(world: World) -> None:
    """Each has half of the partitions; together they make the whole view."""
    await world.begin()
    await world.run([("follow", a, b) for a in range(4) for b in range(4)] + [("rename", 0, 0), ("broadcast", 0, 1)])
    halves = [
        Projector(world.engine, world.redis, VIEW, dict.fromkeys(partitions, 10)) for partitions in ((0, 2), (1, 3))
    ]
    for half in halves:
        await half.load()
        while await half.step(5):
            pass
        await half.write_checkpoints()
        await half.close()
        assert half.position == (await log.head(world.engine)).position
        if half is halves[0]:
            end = half.position
            assert positions(world.raw_redis, VIEW) == [end, 0, end, 0]
            assert all(name.startswith(("{g1.0}", "{g1.2}")) for name in actual(world.raw_redis, VIEW))
    assert actual(world.raw_redis, VIEW) == expected(world.sql, VIEW)


async def test_batch_for_frozen_partition_waits_until_unfrozen(world: World) -> None:
    """The other partitions of the batch are written meanwhile."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed())
    world.raw_redis.hset(VIEW.checkpoint(1), "frozen", "somebody")
    step = asyncio.create_task(world.projector.step())
    await until(lambda: world.raw_redis.exists(VIEW.followers(2)))
    assert not step.done() and not world.raw_redis.exists(VIEW.following(1))
    world.raw_redis.hdel(VIEW.checkpoint(1), "frozen")
    assert await step == 1
    await assert_up_to_date(world)


def _refusing(redis: RedisClient, partition: int, after: int = 0) -> RedisClient:
    """Return a client whose server refuses every batch for one partition, but for the first ``after``."""
    batches = 0

    async def on_run(script: Script, keys: Sequence[str], _: Sequence[Any], proceed: Proceed) -> Any:
        nonlocal batches
        if script is APPLY and keys[0] == VIEW.checkpoint(partition):
            batches += 1
            if batches > after:
                raise ResponseError("a test")
        return await proceed()

    return intercepted(redis, on_run)


async def test_load_of_partition_that_refuses_everything_raises_batch_refused(world: World) -> None:
    """Its fence could not be written, so an earlier worker could go on."""
    await world.begin()
    refusing = Projector(world.engine, _refusing(world.redis, 2), VIEW, dict.fromkeys(range(4), world.fence))
    with pytest.raises(BatchRefused, match=r"\[2\]"):
        await refusing.load()


async def test_partition_that_refuses_everything_keeps_its_position_and_parks_nothing(world: World) -> None:
    """No event is at fault. When the partition is repaired, projection goes on."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed())
    refusing = Projector(world.engine, _refusing(world.redis, 2, after=1), VIEW, dict.fromkeys(range(4), world.fence))
    await refusing.load()
    with pytest.raises(BatchRefused, match=r"\[2\] refuse even an empty batch"):
        await refusing.step()
    assert await parked.read_parked(world.engine) == [] and positions(world.raw_redis, VIEW)[2] == 0
    await world.start_successor()
    await assert_up_to_date(world)


async def test_partition_that_refuses_the_rest_after_parking_raises_batch_refused(world: World) -> None:
    """The fault has not been found, so the partition keeps its position."""
    await world.begin()
    await append(world.engine, 1, 2, UserFollowed())

    async def on_run(script: Script, keys: Sequence[str], arguments: Sequence[Any], proceed: Proceed) -> Any:
        moves = arguments[0] != arguments[1]
        if script is APPLY and keys[0] == VIEW.checkpoint(2) and (moves or len(keys) > 1):
            raise ResponseError("a test")
        return await proceed()

    redis, fences = intercepted(world.redis, on_run), dict.fromkeys(range(VIEW.partitions), world.fence)
    projector = Projector(world.engine, redis, VIEW, fences)
    await projector.load()
    with pytest.raises(BatchRefused, match="left after parking"):
        await projector.step()
    assert positions(world.raw_redis, VIEW)[2] == 0


async def test_partition_ahead_of_others_never_moves_back(world: World) -> None:
    """While the others catch up."""
    await world.begin()
    for pair in ((1, 2), (1, 4), (1, 3), (1, 6)):
        await append(world.engine, *pair, UserFollowed())
    ahead = Projector(world.engine, world.redis, VIEW, {0: world.fence})
    await ahead.load()
    await ahead.step(3)
    await ahead.write_checkpoints()
    await ahead.close()
    await world.projector.load()
    while await world.projector.step(1):
        assert positions(world.raw_redis, VIEW)[0] >= 3 <= world.projector.read_to[0]
    await assert_up_to_date(world)
    await world.end()


async def test_batch_read_ahead_is_discarded_after_redis_lost_writes(world: World) -> None:
    """The next batch begins at the partitions' positions of now."""
    await world.begin()
    await world.save()
    for other in (2, 3, 4, 5, 6):
        await append(world.engine, 1, other, UserFollowed())
    assert await world.projector.step(2) == 2  # full, so the third and fourth are being read
    await world.restore(0, 0)
    await world.projector.check()
    await assert_up_to_date(world)
    await world.end()
