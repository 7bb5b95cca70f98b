"""Comparing views with the log: what is equal passes, and each thing that is not is named, while writes go on."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from commands import folds, parking
from commands.decide import state_of
from commands.directory import Directory
from commands.folds import Side
from commands.postgres import Engine
from commands.users import BroadcastChanges, UserChanges
from projections import large_lists, verifying
from projections.catch_up import ViewLost
from projections.cells import Cell, digest_of, entry, list_cell, own_cells
from projections.examining import Difference
from projections.generations import checkpoints
from projections.keys import View, member, score
from projections.repairing import mend
from projections.store import Store
from projections.verifying import Verdict, differences, verify
from tests.commands.writing import empty, everything
from tests.opened import few
from tests.projections.breaking import BREAKS, Break, Named
from tests.projections.worlds import (
    catch_up,
    change_notifications,
    contents,
    people,
    populate,
    projecting,
    projector_of,
    viewed,
    write,
)

Sql = psycopg.Connection[Any]


async def found_in(engine: Engine, store: Store, view: View, **options: Any) -> tuple[list[Difference], Verdict]:
    """What a comparison finds, and its verdict."""
    seen: list[Difference] = []

    async def found(some: list[Difference]) -> None:
        seen.extend(some)

    verdict = await verify(engine, store, view, found, **options)
    assert verdict.differences == len(seen)
    return seen, verdict


def named(seen: list[Difference]) -> list[Named]:
    """Kind, what, user and other user of each difference, in an order of their own."""
    return sorted(((one.kind, one.cell.what, one.cell.number, one.cell.other) for one in seen), key=repr)


def rows_of(entries: dict[int, int]) -> list[bytes]:
    """Entries (other -> score) as Redis gives a list of them."""
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
async def test_postgres_writes_entries_as_the_views_do(
    engine: Engine, sql: Sql, others: dict[int, tuple[int | None, bool]]
) -> None:
    """The digest of a side in SQL is the one of Redis' answer, for numbers of every length and equal times."""
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
    assert await folds.digests(engine, "following", {me: 1_000}) == ({} if ours is None else {me: ours})
    assert await folds.entries(engine, "following", {me: 1_000}) == {me: entries}


async def test_a_fold_in_sql_is_the_fold_of_the_events_at_every_position(engine: Engine) -> None:
    """Digests, entries and single pairs say at each position what reading the log up to there says."""
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
        for side, ought in sides.items():
            assert await folds.entries(engine, side, at) == ought
            written = {n: digest_of(rows_of(entries)) for n, entries in ought.items() if entries}
            assert await folds.digests(engine, side, at) == written
        pairs = [(a, b) for a in numbers for b in numbers if a != b]
        found = await folds.follows_at(engine, pairs, recorded.position)
        assert {pair: score(one.created_at, one.notifications) for pair, one in found.items()} == follows


async def a_follow(engine: Engine) -> tuple[int, int, int]:
    """Some follow there is: follower, followed, and the highest position."""
    events = await everything(engine)
    last = {(recorded.subject, recorded.object): recorded for recorded in events}
    pair = next(pair for pair, recorded in last.items() if state_of(recorded) is not None)
    return *pair, events[-1].position


async def test_a_view_of_everything_that_can_happen_is_clean(engine: Engine, store: Store) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, store)
    seen, verdict = await found_in(engine, store, view)
    assert seen == [] and verdict.clean
    assert verdict.users == len(numbers) and verdict.reached == numbers[-1]
    lists = [value for key, value in (await contents(store, view)).items() if ":follow" in key]
    assert verdict.entries == sum(len(value) for value in lists if isinstance(value, list)) // 2 > 0
    assert await differences(engine, store, view) == 0


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda one: str(one.__name__))
async def test_what_is_broken_is_named_and_mended_and_nothing_else(
    engine: Engine, store: Store, break_it: Break
) -> None:
    """After the repair every key of the generation holds what it held before."""
    numbers = await populate(engine)
    view = await viewed(engine, store)
    before = await contents(store, view)
    broken = await break_it(store, view, numbers)
    seen, verdict = await found_in(engine, store, view)
    assert named(seen) == sorted(broken, key=repr)
    assert not verdict.clean and verdict.unsettled == 0
    assert await differences(engine, store, view) == len(broken)

    assert await mend(engine, store, view, seen) == len(broken)
    left, _ = await found_in(engine, store, view)  # a key of another type is removed first, then filled
    await mend(engine, store, view, left)
    assert await contents(store, view) == before
    assert (await found_in(engine, store, view))[1].clean


async def test_a_comparison_of_some_users_looks_at_nobody_else(engine: Engine, store: Store) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, store)
    for number in numbers[:3]:
        await store.call("SET", view.user(number), "broken")
    seen, verdict = await found_in(engine, store, view, numbers=numbers[1:2])
    assert named(seen) == [("wrong", "profile", numbers[1], None)] and verdict.users == 1


@asynccontextmanager
async def busy(engine: Engine, numbers: list[int], seed: int = 5) -> AsyncIterator[None]:
    """Follows, unfollows with equal times, renames and broadcasts among these users until the block ends.

    The first user's list is the longest and changes all the time; nobody touches the pairs of the last user.
    """
    choice, users = random.Random(seed), Directory(engine)
    pairs = [(a, b) for a in numbers[:-1] for b in numbers[:-1] if a != b]
    hub = [pair for pair in pairs if pair[1] == numbers[0]]

    async def go_on() -> None:
        for step in range(1_000_000):
            some = {*choice.sample(pairs, 4), *choice.sample(hub, 4)}
            await write(engine, *some, at=1_600_000_000_000_000 + step % 3)
            id_ = f"u{choice.randrange(1, 5)}"
            if step % 3 == 0:
                await users.put(id_, UserChanges(username=f"{id_}-{step % 2}", bio=str(step)))
                await users.put_broadcast(id_, BroadcastChanges(viewers=step))

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_writes_meanwhile_are_no_false_alarm_and_hide_nothing(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round after round under load: nothing; with one entry broken, that one alone; lists in parts and in whole."""
    numbers = await people(engine, 10)
    await write(engine, *[(n, numbers[-1]) for n in numbers[:9]], at=1_500_000_000_000_000)
    async with projecting(engine, store) as view, busy(engine, numbers):
        for turn in range(9):
            if turn == 4:  # from here on nearly every list is a long one, read in many parts
                monkeypatch.setattr(verifying, "ENTRIES_MAX", 2)
                monkeypatch.setattr(large_lists, "SLICE_MAX", 3)
            if turn == 6:
                await store.call("ZREM", view.followers(numbers[-1]), member(numbers[4]))
                await store.call("ZADD", view.following(numbers[-1]), 77, member(numbers[0]))
            seen, verdict = await found_in(engine, store, view)
            broken = [
                ("extra", "following", numbers[-1], numbers[0]),
                ("missing", "followers", numbers[-1], numbers[4]),
            ]
            assert named(seen) == (broken if turn >= 6 else [])
            assert verdict.unsettled == 0 and verdict.users == 10 and verdict.behind == {}


async def test_a_list_in_parts_is_compared_like_a_list_in_whole(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal times and broken entries, wherever the parts begin and end."""
    choice = random.Random(3)
    numbers = await people(engine, 16)
    times = {number: choice.choices(range(4), k=15) for number in numbers}
    for number in numbers:
        others = choice.sample([other for other in numbers if other != number], choice.randint(1, 14))
        for other, time in zip(others, times[number], strict=False):
            await write(engine, (other, number), at=1_600_000_000_000_000 + time)
    view = await viewed(engine, store)
    for number in numbers[:11]:
        unequal = await break_some(store, view.followers(number), numbers, choice)
        entries = await store.call("ZCARD", view.followers(number))
        for entries_max, slice_max in ((500, 4_000), (0, 1), (0, 2), (0, 3)):
            monkeypatch.setattr(verifying, "ENTRIES_MAX", entries_max)
            monkeypatch.setattr(large_lists, "SLICE_MAX", slice_max)
            seen, verdict = await found_in(engine, store, view, numbers=[number])
            lists = [one.cell for one in seen if one.cell.what == "followers"]
            assert {cell.name.encode() for cell in lists} == unequal and len(seen) == len(lists) == len(unequal)
            assert verdict.entries >= entries


def test_the_parts_of_a_list_cover_every_score_once() -> None:
    """Cut only where the score changes, and without a gap between the parts, however the list was read."""
    rows = [text.encode() for place in (1, 2, 2, 2, 3, 4, 4, 9) for text in ("m", str(place))]
    for size in range(1, 9):
        slices = [rows[start : start + 2 * size] for start in range(0, len(rows), 2 * size)]
        parts = list(large_lists._parts(slices))
        assert [field for part in parts for field in part.rows] == rows
        assert (parts[0].low, parts[-1].high) == (-folds.SCORE_MAX, folds.SCORE_MAX)
        assert [part.high for part in parts[:-1]] == [part.low for part in parts[1:]]
        assert all(part.low <= int(score) < part.high for part in parts for score in part.rows[1::2])


async def test_a_key_that_is_gone_by_now_is_no_difference(engine: Engine, store: Store) -> None:
    """Between two looks somebody may have removed a stray key, or the last entry of a list."""
    (number,) = await people(engine, 1)
    view = await viewed(engine, store)
    gone = [Cell("key", 0, view.user(10**12), 10**12), list_cell(view, "following", number)]
    seen, verdict = await found_in(engine, store, view, numbers=[], also=gone)
    assert seen == [] and verdict.clean


async def break_some(store: Store, key: str, numbers: list[int], choice: random.Random) -> set[bytes]:
    """Remove and change up to three entries; the members that are now not as before."""
    before = dict(await entries_of(store, key))
    for number in choice.sample(numbers, choice.randint(0, 3)):
        points = choice.choice([None, 1.5, 3_200_000_000_000_004])
        command = ("ZREM", key, member(number)) if points is None else ("ZADD", key, points, member(number))
        await store.call(*command)
    after = dict(await entries_of(store, key))
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


async def entries_of(store: Store, key: str) -> list[tuple[bytes, bytes]]:
    """Member and score of each entry of a list."""
    rows = await store.call("ZRANGE", key, 0, -1, "WITHSCORES")
    return list(zip(rows[::2], rows[1::2], strict=True))


async def test_a_part_begins_behind_the_last_entry_even_if_that_is_gone(engine: Engine, store: Store) -> None:
    """Among equal scores, too; ranks would pass over an entry for each one removed before it."""
    view = await viewed(engine, store)
    key, lane = view.followers(4), view.lane_of(4)
    numbers = [1, 2, 3, 9, 10, 11, 12, 100]
    for number in numbers:
        await store.call("ZADD", key, 10 if 3 <= number <= 12 else number, member(number))
    ordered = [name for name, _ in await entries_of(store, key)]
    for index, name in enumerate(ordered):
        behind = [await store.call("ZSCORE", key, name), name]
        for gone in ([], [name], [name, *ordered[:index]]):
            for one in gone:
                await store.call("ZREM", key, one)
            _, rows = await store.run(large_lists.SLICE, [view.checkpoint(lane), key], [3, *behind])
            assert rows[::2] == ordered[index + 1 : index + 4]
        for number in numbers:
            await store.call("ZADD", key, 10 if 3 <= number <= 12 else number, member(number))


async def test_a_lane_that_is_lost_or_of_another_log_is_a_difference_by_itself(engine: Engine, store: Store) -> None:
    await people(engine, 15)
    view = await viewed(engine, store, 5)
    await store.call("DEL", view.checkpoint(0))
    await store.call("HSET", view.checkpoint(1), "epoch", "another")
    await store.call("HSET", view.checkpoint(2), "position", 10**9)
    await store.call("HINCRBY", view.checkpoint(3), "stamp", 1)
    seen, verdict = await found_in(engine, store, view)
    assert [(one.kind, one.cell.what, one.cell.lane) for one in seen] == [
        ("missing", "lane", 0),
        ("wrong", "lane", 1),
        ("wrong", "lane", 2),
        ("wrong", "lane", 3),
    ]
    assert verdict.users == 3, "only those of lane 4 can be compared"
    assert await mend(engine, store, view, seen) == 0


async def test_a_lane_that_has_come_further_meanwhile_is_no_other_logs(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log's end is looked at after the lanes, or else their progress would look like a log that was set back."""
    numbers = await populate(engine)
    projector = await projector_of(engine, store)
    await catch_up(projector)

    async def go_on_and_look(*arguments: Any) -> Any:
        await write(engine, (numbers[0], numbers[1]))
        await catch_up(projector)
        return await checkpoints(*arguments)

    monkeypatch.setattr(verifying, "checkpoints", go_on_and_look)
    seen, verdict = await found_in(engine, store, projector.view)
    assert seen == [] and verdict.clean


async def test_a_lane_lost_on_the_way_ends_the_comparison(engine: Engine, store: Store) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, store)

    async def lose(_: Verdict) -> None:
        await store.call("DEL", *[view.checkpoint(lane) for lane in range(view.lanes)])

    await store.call("SET", view.login("stale"), numbers[0])
    with pytest.raises(ViewLost):
        await found_in(engine, store, view, between=lose)


async def test_a_row_newer_than_its_lane_is_no_difference(engine: Engine, store: Store) -> None:
    """Nobody projects; the profile in the view is as old as its lane, which is no fault. It is just not settled."""
    numbers = await populate(engine)
    view = await viewed(engine, store)
    users = Directory(engine)
    await users.put("u1", UserChanges(username="newname", bio="new"))
    await users.put_broadcast("u5", BroadcastChanges(viewers=1))
    await users.put("new", UserChanges())
    await store.call("SET", view.user(numbers[6]), "broken")
    seen, verdict = await found_in(engine, store, view, patience_s=0.06)
    assert named(seen) == [("wrong", "profile", numbers[6], None)]
    assert verdict.unsettled > 5 and not verdict.clean
    assert await differences(engine, store, view) == 1


async def test_a_comparison_waits_for_lanes_that_come(engine: Engine, store: Store) -> None:
    """What is pending at first is judged when its lane has come to it, right or wrong."""
    numbers = await populate(engine)
    projector = await projector_of(engine, store)
    await catch_up(projector)
    await Directory(engine).put("u1", UserChanges(bio="new"))

    async def come(_: Verdict) -> None:
        await catch_up(projector)
        await store.call("ZADD", projector.view.live(projector.view.lane_of(numbers[0])), 5, member(numbers[0]))

    seen, verdict = await found_in(engine, store, projector.view, numbers=numbers[:1], between=come)
    assert seen == [] and verdict.clean, "the live channel was looked at before it was broken, and nothing was pending"
    seen, verdict = await found_in(engine, store, projector.view, numbers=numbers[:1])
    assert named(seen) == [("extra", "live", numbers[0], None)]


async def test_lanes_far_behind_are_reported(engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, store)
    await write(engine, (numbers[0], numbers[1]))
    assert (await found_in(engine, store, view))[1].behind == {}, "not for so long yet"
    monkeypatch.setattr(verifying, "BEHIND_S", 0.0)
    seen, verdict = await found_in(engine, store, view)
    assert seen == [] and set(verdict.behind) == {0, 1, 2, 3} and not verdict.clean


async def test_parked_pairs_are_left_out_and_counted(engine: Engine, store: Store) -> None:
    """What waits behind a parked event is not in the views on purpose, in long lists neither."""
    numbers = await populate(engine)
    view = await viewed(engine, store)
    follower, followed, position = await a_follow(engine)
    await store.call("ZREM", view.following(follower), member(followed))
    await store.call("SET", view.user(numbers[3]), "old")
    await parking.park(engine, [(position, follower, followed, "a test"), (1, numbers[3], numbers[3], "a test")])
    seen, verdict = await found_in(engine, store, view)
    assert seen == [] and verdict.parked == 2 and verdict.clean
    by_hand = [Difference(entry(view, "following", follower, followed), None, None)]
    by_hand += [Difference(cell, None, None) for cell in own_cells(view, numbers[3])]
    assert await mend(engine, store, view, by_hand) == 0, "a repair leaves them alone as well"
    await store.call("ZREM", view.followers(followed), member(follower))
    await store.call("ZADD", view.followers(followed), 1, member(10**6))
    seen, _ = await found_in(engine, store, view)
    assert named(seen) == [("extra", "followers", followed, 10**6)]


async def test_a_skipped_event_is_as_if_it_had_never_been(engine: Engine, store: Store) -> None:
    """The view that took it is told so, the one that left it out is equal; a later event of the pair counts again."""
    one, two, three = await people(engine, 3)
    first = await write(engine, (one, two), at=1_600_000_000_000_000)
    last = await write(engine, (one, two), (three, one))
    view = await viewed(engine, store)
    await parking.park(engine, [(last - 1, one, two, "a test")])
    await parking.skip(engine, last - 1, "somebody", "a test")
    assert last - 1 > first
    for limit in (500, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verifying, "ENTRIES_MAX", limit)
            seen, verdict = await found_in(engine, store, view)
        assert named(seen) == [("missing", "followers", two, one), ("missing", "following", one, two)]
        assert verdict.parked == 0
    assert await mend(engine, store, view, seen) == 2
    assert await store.call("ZSCORE", view.following(one), member(two)) == b"3200000000000000"
    assert (await found_in(engine, store, view))[1].clean
