"""Comparison of views with the log while writes go on: equal views are clean, and every difference is found."""

import random
from typing import Any, cast

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.decide import CurrentFollow, state_of
from commands.directory import Directory
from commands.log import fold
from commands.users import BroadcastChanges, Side, UserChanges
from projections.client.client import RedisClient
from projections.errors import ViewLost
from projections.keys import member, score, write_word
from projections.verify.cells import Cell, digest_of, entry_cell, list_cell, user_cells
from projections.verify.compare import VerifyResult, count_differences
from projections.verify.expected import Difference
from projections.verify.large_lists import SLICE, cut
from projections.verify.limits import VerifyLimits
from tests.support.fixtures import few
from tests.support.log_writes import empty, everything
from tests.support.small_world import (
    busy,
    catch_up,
    change_notifications,
    compare,
    contents,
    named,
    people,
    populate,
    projecting,
    projector_of,
    repair,
    viewed,
    write,
)
from tests.support.unreadable_events import write_unknown
from tests.support.view_corruptions import CORRUPTIONS, Corruption

Sql = psycopg.Connection[Any]


def rows_of(entries: dict[int, int]) -> list[bytes]:
    """Return entries (other -> score) as Redis returns a list of them."""
    ordered = sorted((points, member(other)) for other, points in entries.items())
    return [text.encode() for points, name in ordered for text in (name, str(points))]


@few
@given(
    others=st.dictionaries(
        st.integers(1, 2**63 - 2) | st.integers(1, 20) | st.sampled_from([10**n for n in range(18)]),
        st.tuples(st.none() | st.integers(0, 2**52 - 1) | st.just(1_700_000_000_000_000), st.booleans()),
        max_size=40,
    )
)
async def test_sql_digest_of_any_list_equals_digest_of_redis_answer(
    engine: Engine, sql: Sql, others: dict[int, tuple[int | None, bool]]
) -> None:
    """For numbers of every length, and for equal times."""
    empty(sql)
    me, entries = 2**63 - 1, dict[int, int]()
    for position, (other, (created_at, notifications)) in enumerate(others.items(), 1):
        data = {"notifications": notifications} | ({} if created_at is None else {"created_at": created_at})
        sql.execute(
            """INSERT INTO events (position, subject, object, version, type, recorded_at, data) VALUES
            (%s, %s, %s, 1, 'UserFollowed', to_timestamp(%s), %s)""",
            (position, me, other, position, Jsonb(data)),
        )
        entries[other] = score(position * 1_000_000 if created_at is None else created_at, notifications)
    ours = digest_of(rows_of(entries))
    assert await fold.read_digests(engine, "following", {me: 1_000}) == ({} if ours is None else {me: ours})
    assert await fold.read_entries(engine, "following", {me: 1_000}) == {me: entries}


async def test_sql_fold_at_every_position_equals_fold_of_events(engine: Engine) -> None:
    """As digests, as entries and as single pairs."""
    numbers = await populate(engine, 6)
    await change_notifications(engine, *(await a_follow(engine))[:2], 1_500_000_000_000_000)
    events = await everything(engine)
    follows: dict[tuple[int, int], int] = {}
    for recorded in events:
        if recorded.subject == recorded.object:
            continue
        pair = recorded.subject, recorded.object
        state = state_of(recorded)
        follows.pop(pair, None)
        if state is not None:
            follows[pair] = score(state.created_at, state.notifications)
        at = dict.fromkeys(numbers, recorded.position)
        sides: dict[Side, dict[int, dict[int, int]]] = {
            "following": {n: {b: points for (a, b), points in follows.items() if a == n} for n in numbers},
            "followers": {n: {a: points for (a, b), points in follows.items() if b == n} for n in numbers},
        }
        for side, wanted in sides.items():
            assert await fold.read_entries(engine, side, at) == wanted
            written = {n: digest_of(rows_of(entries)) for n, entries in wanted.items() if entries}
            assert await fold.read_digests(engine, side, at) == written
        pairs = [(a, b) for a in numbers for b in numbers if a != b]
        found = await fold.follows_at(engine, pairs, recorded.position)
        states = {pair: one for pair, one in found.items() if isinstance(one, CurrentFollow)}
        assert {pair: score(one.created_at, one.notifications) for pair, one in states.items()} == follows


async def a_follow(engine: Engine) -> tuple[int, int, int]:
    """Return a follow that exists: follower, followed, and the log's last position."""
    events = await everything(engine)
    last = {(recorded.subject, recorded.object): recorded for recorded in events}
    pair = next(pair for pair, recorded in last.items() if state_of(recorded) is not None)
    return *pair, events[-1].position


async def test_view_of_every_kind_of_event_is_clean(engine: Engine, redis: RedisClient) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    seen, result = await compare(engine, redis, view)
    assert seen == [] and result.clean
    assert result.users == len(numbers) and result.reached == numbers[-1]
    lists = [value for key, value in (await contents(redis, view)).items() if ":follow" in key]
    assert result.entries == sum(len(value) for value in lists if isinstance(value, list)) // 2 > 0
    assert await count_differences(engine, redis, view) == 0


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda one: str(one.__name__))
async def test_corruption_is_found_and_repaired_exactly(
    engine: Engine, redis: RedisClient, corrupt: Corruption
) -> None:
    """After the repair every key of the generation holds what it held before the corruption."""
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    before = await contents(redis, view)
    broken = await corrupt(redis, view, numbers)
    seen, result = await compare(engine, redis, view)
    assert named(seen) == sorted(broken, key=repr)
    assert not result.clean and result.undecided == 0
    assert await count_differences(engine, redis, view) == len(broken)

    assert await repair(engine, redis, view, seen) == len(broken)
    left, _ = await compare(
        engine, redis, view
    )  # a key of another type is removed in the first repair and filled in the second
    await repair(engine, redis, view, left)
    assert await contents(redis, view) == before
    assert (await compare(engine, redis, view))[1].clean


async def test_comparison_of_some_users_ignores_other_users(engine: Engine, redis: RedisClient) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    for number in numbers[:3]:
        await redis.call("SET", view.user(number), "broken")
    seen, result = await compare(engine, redis, view, numbers=numbers[1:2])
    assert named(seen) == [("wrong", "profile", numbers[1], None)] and result.users == 1


async def test_comparison_under_load_finds_exactly_what_is_corrupted(engine: Engine, redis: RedisClient) -> None:
    """Short lists and lists in slices, first of a sound view, then with two corrupted entries."""
    numbers = await people(engine, 10)
    await write(engine, *[(n, numbers[-1]) for n in numbers[:9]], at=1_500_000_000_000_000)
    async with projecting(engine, redis) as view, busy(engine, numbers):
        for turn in range(9):
            # From turn 4 on nearly every list is a long one, read in many slices.
            limits = VerifyLimits() if turn < 4 else VerifyLimits(entries=2, slice=3)
            if turn == 6:
                await redis.call("ZREM", view.followers(numbers[-1]), member(numbers[4]))
                await redis.call("ZADD", view.following(numbers[-1]), 77, member(numbers[0]))
            seen, result = await compare(engine, redis, view, limits=limits)
            broken = [
                ("extra", "following", numbers[-1], numbers[0]),
                ("missing", "followers", numbers[-1], numbers[4]),
            ]
            assert named(seen) == (broken if turn >= 6 else [])
            assert result.undecided == 0 and result.users == 10 and result.behind == {}


async def test_list_in_slices_has_same_differences_as_whole_list(engine: Engine, redis: RedisClient) -> None:
    """Equal times and corrupted entries, wherever a slice begins and ends."""
    choice = random.Random(3)
    numbers = await people(engine, 16)
    times = {number: choice.choices(range(4), k=15) for number in numbers}
    for number in numbers:
        others = choice.sample([other for other in numbers if other != number], choice.randint(1, 14))
        for other, time in zip(others, times[number], strict=False):
            await write(engine, (other, number), at=1_600_000_000_000_000 + time)
    view = await viewed(engine, redis)
    for number in numbers[:11]:
        unequal = await break_some(redis, view.followers(number), numbers, choice)
        entries = await redis.call("ZCARD", view.followers(number))
        for limits in (VerifyLimits(), *(VerifyLimits(entries=0, slice=size) for size in (1, 2, 3))):
            seen, result = await compare(engine, redis, view, numbers=[number], limits=limits)
            lists = [one.cell for one in seen if one.cell.what == "followers"]
            assert {cell.name.encode() for cell in lists} == unequal and len(seen) == len(lists) == len(unequal)
            assert result.entries >= entries


def test_parts_of_list_cover_every_score_once() -> None:
    """Whatever the size of the slices that were read."""
    rows = [text.encode() for place in (1, 2, 2, 2, 3, 4, 4, 9) for text in ("m", str(place))]
    for size in range(1, 9):
        slices = [rows[start : start + 2 * size] for start in range(0, len(rows), 2 * size)]
        parts = list(cut(slices))
        assert [field for part in parts for field in part.rows] == rows
        assert (parts[0].low, parts[-1].high) == (-fold.SCORE_MAX, fold.SCORE_MAX)
        assert [part.high for part in parts[:-1]] == [part.low for part in parts[1:]]
        assert all(part.low <= int(score) < part.high for part in parts for score in part.rows[1::2])


async def test_key_removed_before_examination_is_not_a_difference(engine: Engine, redis: RedisClient) -> None:
    """Another process may have removed a stray key, or the last entry of a list."""
    (number,) = await people(engine, 1)
    view = await viewed(engine, redis)
    gone = [Cell("key", 0, view.user(10**12), 10**12), list_cell(view, "following", number)]
    seen, result = await compare(engine, redis, view, numbers=[], also=gone)
    assert seen == [] and result.clean


async def break_some(redis: RedisClient, key: str, numbers: list[int], choice: random.Random) -> set[bytes]:
    """Remove and change up to three entries; return the members that differ now."""
    before = dict(await entries_of(redis, key))
    for number in choice.sample(numbers, choice.randint(0, 3)):
        points = choice.choice([None, 1.5, 3_200_000_000_000_004])
        command = ("ZREM", key, member(number)) if points is None else ("ZADD", key, points, member(number))
        await redis.call(*command)
    after = dict(await entries_of(redis, key))
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


async def entries_of(redis: RedisClient, key: str) -> list[tuple[bytes, bytes]]:
    """Return member and score of each entry of a list."""
    rows = await redis.call("ZRANGE", key, 0, -1, "WITHSCORES")
    return list(zip(rows[::2], rows[1::2], strict=True))


async def test_slice_after_removed_entry_continues_at_its_place(engine: Engine, redis: RedisClient) -> None:
    """Also among equal scores. By rank, an entry would be missed for each one removed before it."""
    view = await viewed(engine, redis)
    key, partition = view.followers(4), view.partition_of(4)
    numbers = [1, 2, 3, 9, 10, 11, 12, 100]
    for number in numbers:
        await redis.call("ZADD", key, 10 if 3 <= number <= 12 else number, member(number))
    ordered = [name for name, _ in await entries_of(redis, key)]
    for index, name in enumerate(ordered):
        behind = [await redis.call("ZSCORE", key, name), name]
        for gone in ([], [name], [name, *ordered[:index]]):
            for one in gone:
                await redis.call("ZREM", key, one)
            _, rows = await redis.run(SLICE, [view.checkpoint(partition), key], [3, *behind])
            assert rows[::2] == ordered[index + 1 : index + 4]
        for number in numbers:
            await redis.call("ZADD", key, 10 if 3 <= number <= 12 else number, member(number))


async def test_lost_partition_or_one_of_another_history_is_a_difference(engine: Engine, redis: RedisClient) -> None:
    await people(engine, 15)
    view = await viewed(engine, redis, 5)
    await redis.call("DEL", view.checkpoint(0))
    at = int(await redis.call("HGET", view.checkpoint(1), "position"))
    await redis.call("HSET", view.checkpoint(1), "word", write_word(at, 1))
    await redis.call("HSET", view.checkpoint(2), "position", 10**9)
    await redis.call("HSET", view.checkpoint(3), "word", write_word(at - 1, 1))  # not this position's, so not known
    seen, result = await compare(engine, redis, view)
    assert [(one.kind, one.cell.what, one.cell.partition) for one in seen] == [
        ("missing", "partition", 0),
        ("wrong", "partition", 1),
        ("wrong", "partition", 2),
    ]
    assert result.users == 6, "only those of partitions 3 and 4 can be compared"
    assert await repair(engine, redis, view, seen) == 1, "the partition beyond the log's end is taken away"


async def test_partition_that_advances_during_check_is_clean(engine: Engine, redis: RedisClient) -> None:
    """The log's end is read after the checkpoints; otherwise their progress would look like a log that was reset."""
    numbers = await populate(engine)
    projector = await projector_of(engine, redis)
    await catch_up(projector)

    class Advancing:
        """Projects another event just before the first checkpoint is read."""

        advanced = False

        async def call(self, *command: Any) -> Any:
            if not self.advanced:
                self.advanced = True
                await write(engine, (numbers[0], numbers[1]))
                await catch_up(projector)
            return await redis.call(*command)

        def __getattr__(self, name: str) -> Any:
            return getattr(redis, name)

    seen, result = await compare(engine, cast(RedisClient, Advancing()), projector.view)
    assert seen == [] and result.clean


async def test_partition_lost_during_comparison_raises_view_lost(engine: Engine, redis: RedisClient) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, redis)

    async def lose(_: VerifyResult) -> None:
        await redis.call("DEL", *[view.checkpoint(partition) for partition in range(view.partitions)])

    await redis.call("SET", view.login("stale"), numbers[0])
    with pytest.raises(ViewLost):
        await compare(engine, redis, view, on_progress=lose)


async def test_row_newer_than_its_partition_is_undecided(engine: Engine, redis: RedisClient) -> None:
    """No process projects: the profile in the view is as old as its partition, which is not a difference."""
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    users = Directory(engine)
    await users.put("u1", UserChanges(username="newname", bio="new"))
    await users.put_broadcast("u5", BroadcastChanges(viewers=1))
    await users.put("new", UserChanges())
    await redis.call("SET", view.user(numbers[6]), "broken")
    seen, result = await compare(engine, redis, view, limits=VerifyLimits(pending_timeout_s=0.06))
    assert named(seen) == [("wrong", "profile", numbers[6], None)]
    assert result.undecided > 5 and not result.clean
    assert await count_differences(engine, redis, view) == 1


async def test_pending_cells_are_judged_when_partition_reaches_row(engine: Engine, redis: RedisClient) -> None:
    """Whether they are then right or wrong."""
    numbers = await populate(engine)
    projector = await projector_of(engine, redis)
    await catch_up(projector)
    await Directory(engine).put("u1", UserChanges(bio="new"))

    async def come(_: VerifyResult) -> None:
        await catch_up(projector)
        await redis.call("ZADD", projector.view.live(projector.view.partition_of(numbers[0])), 5, member(numbers[0]))

    seen, result = await compare(engine, redis, projector.view, numbers=numbers[:1], on_progress=come)
    assert seen == [] and result.clean, "the live channel was looked at before it was broken, and nothing was pending"
    seen, result = await compare(engine, redis, projector.view, numbers=numbers[:1])
    assert named(seen) == [("extra", "live", numbers[0], None)]


async def test_partitions_far_behind_log_are_reported(engine: Engine, redis: RedisClient) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    await write(engine, (numbers[0], numbers[1]))
    assert (await compare(engine, redis, view))[1].behind == {}, "not for so long yet"
    seen, result = await compare(engine, redis, view, limits=VerifyLimits(lag_s=0.0))
    assert seen == [] and set(result.behind) == {0, 1, 2, 3} and not result.clean


async def test_parked_pairs_are_not_compared_and_are_counted(engine: Engine, redis: RedisClient) -> None:
    """In short and in long lists."""
    numbers = await populate(engine)
    view = await viewed(engine, redis)
    follower, followed, position = await a_follow(engine)
    await redis.call("ZREM", view.following(follower), member(followed))
    await redis.call("SET", view.user(numbers[3]), "old")
    await parked.park(engine, [(position, follower, followed, "a test"), (1, numbers[3], numbers[3], "a test")])
    seen, result = await compare(engine, redis, view)
    assert seen == [] and result.parked == 2 and result.clean
    by_hand = [Difference(entry_cell(view, "following", follower, followed), None, None)]
    by_hand += [Difference(cell, None, None) for cell in user_cells(view, numbers[3])]
    assert await repair(engine, redis, view, by_hand) == 0, "a repair leaves them alone as well"
    await redis.call("ZREM", view.followers(followed), member(follower))
    await redis.call("ZADD", view.followers(followed), 1, member(10**6))
    seen, _ = await compare(engine, redis, view)
    assert named(seen) == [("extra", "followers", followed, 10**6)]


async def test_follow_that_a_newer_version_changed_is_undecided(engine: Engine, redis: RedisClient, sql: Sql) -> None:
    """Its last event is of a kind that this version does not know and a newer one has projected, so none is parked."""
    one, two, _ = await people(engine, 3)
    await write(engine, (one, two))
    projector = await projector_of(engine, redis)
    position = write_unknown(sql, (one, two), 2)
    await catch_up(projector)
    assert await parked.unpark(engine, one, two, position) == 1
    await redis.call("ZADD", projector.view.following(one), 5, member(two))
    seen, result = await compare(engine, redis, projector.view, limits=VerifyLimits(pending_timeout_s=0.0))
    assert seen == [] and result.undecided == 1 and not result.clean


async def test_skipped_event_counts_as_never_written(engine: Engine, redis: RedisClient) -> None:
    """A view that holds it differs; after the repair it is clean."""
    one, two, three = await people(engine, 3)
    first = await write(engine, (one, two), at=1_600_000_000_000_000)
    last = await write(engine, (one, two), (three, one))
    view = await viewed(engine, redis)
    await parked.park(engine, [(last - 1, one, two, "a test")])
    await parked.mark_skipped(engine, last - 1, "somebody", "a test")
    assert last - 1 > first
    for entries in (500, 0):
        seen, result = await compare(engine, redis, view, limits=VerifyLimits(entries=entries))
        assert named(seen) == [("missing", "followers", two, one), ("missing", "following", one, two)]
        assert result.parked == 0
    assert await repair(engine, redis, view, seen) == 2
    assert await redis.call("ZSCORE", view.following(one), member(two)) == b"3200000000000000"
    assert (await compare(engine, redis, view))[1].clean
