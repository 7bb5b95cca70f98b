"""Comparing views with the log: what is equal passes, each thing that is not is named, whatever is written meanwhile."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from commands import folds, log, parking
from commands.decide import state_of
from commands.directory import Directory
from commands.folds import Side
from commands.postgres import Engine
from commands.users import BroadcastChanges, UserChanges
from projections import large_lists, verifying
from projections.cells import digest_of
from projections.examining import Difference
from projections.keys import View, member, score
from projections.store import Store
from projections.verifying import Verdict, differences, verify
from tests.commands.writing import empty, everything
from tests.opened import few
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
Named = tuple[str, str, int | None, int | None]


async def compared(engine: Engine, store: Store, view: View, **options: Any) -> tuple[list[Named], Verdict]:
    """What a comparison finds: (kind, what, user, other) of each difference, and the verdict."""
    seen: list[Difference] = []

    async def found(some: list[Difference]) -> None:
        seen.extend(some)

    verdict = await verify(engine, store, view, found, **options)
    assert verdict.differences == len(seen)
    return [(one.kind, one.cell.what, one.cell.number, one.cell.other) for one in seen], verdict


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
    seen, verdict = await compared(engine, store, view)
    assert seen == [] and verdict.clean
    assert verdict.users == len(numbers) and verdict.reached == numbers[-1]
    lists = [value for key, value in (await contents(store, view)).items() if ":follow" in key]
    assert verdict.entries == sum(len(value) for value in lists if isinstance(value, list)) // 2 > 0
    assert await differences(engine, store, view) == 0


Break = Callable[[Store, View, list[int]], Awaitable[list[Named]]]


async def missing_entry(store: Store, view: View, n: list[int]) -> list[Named]:
    name, _ = await store.call("ZRANGE", view.followers(n[0]), 0, 0, "WITHSCORES")
    await store.call("ZREM", view.followers(n[0]), name)
    return [("missing", "followers", n[0], large_lists.other_of(name.decode()))]


async def extra_entry(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("ZADD", view.following(n[-1]), 3_000_000_000_000_001, member(n[2]))
    return [("extra", "following", n[-1], n[2])]


async def foreign_members(store: Store, view: View, n: list[int]) -> list[Named]:
    """A user who never was, the user himself, and what is no user at all, with blanks and bad bytes."""
    strange = (member(10**12), member(n[1]), "no user", b"\xff 1")
    for name in strange:
        await store.call("ZADD", view.followers(n[1]), "1.5", name)
    return [("extra", "followers", n[1], other) for other in (10**12, n[1], None, None)]


async def wrong_scores(store: Store, view: View, n: list[int]) -> list[Named]:
    """The flag's bit on the first, half a microsecond on the last."""
    rows = await store.call("ZRANGE", view.followers(n[0]), 0, -1, "WITHSCORES")
    await store.call("ZADD", view.followers(n[0]), int(rows[1]) ^ 1, rows[0])
    await store.call("ZADD", view.followers(n[0]), int(rows[-1]) + 0.5, rows[-2])
    return [("wrong", "followers", n[0], large_lists.other_of(name.decode())) for name in (rows[0], rows[-2])]


async def lost_list(store: Store, view: View, n: list[int]) -> list[Named]:
    rows = await store.call("ZRANGE", view.following(n[1]), 0, -1)
    await store.call("DEL", view.following(n[1]))
    return [("missing", "following", n[1], large_lists.other_of(name.decode())) for name in rows]


async def list_of_another_type(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("DEL", view.following(n[1]), view.followers(n[-1]))
    await store.call("SET", view.following(n[1]), "hello")
    await store.call("RPUSH", view.followers(n[-1]), "hello")
    return [("wrong", "key", n[1], None), ("wrong", "key", n[-1], None)]


async def wrong_profile(store: Store, view: View, n: list[int]) -> list[Named]:
    raw = await store.call("GET", view.user(n[2]))
    await store.call("SET", view.user(n[2]), raw.replace(b"U3", b"U9"))
    return [("wrong", "profile", n[2], None)]


async def lost_profiles(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("DEL", view.user(n[0]))
    await store.call("DEL", view.user(n[-1]))
    await store.call("LPUSH", view.user(n[-1]), "a list")
    return [("missing", "profile", n[0], None), ("wrong", "profile", n[-1], None)]


async def wrong_login_fields(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("HSET", view.logins(view.lane_of(n[0])), n[0], "somebody")
    await store.call("HDEL", view.logins(view.lane_of(n[1])), n[1])
    await store.call("HSET", view.logins(view.lane_of(n[-1])), n[-1], "erased")
    return [("wrong", "login of", n[0], None), ("missing", "login of", n[1], None), ("extra", "login of", n[-1], None)]


async def wrong_broadcasts(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("ZADD", view.live(view.lane_of(n[2])), 8, member(n[2]))
    await store.call("ZADD", view.live(view.lane_of(n[0])), 1, member(n[0]))
    await store.call("ZREM", view.last_broadcast(view.lane_of(n[3])), member(n[3]))
    return [("wrong", "live", n[2], None), ("extra", "live", n[0], None), ("missing", "last broadcast", n[3], None)]


async def wrong_look_ups(store: Store, view: View, n: list[int]) -> list[Named]:
    await store.call("DEL", view.id("u1"))
    await store.call("SET", view.id("u2"), n[0])
    await store.call("SET", view.login("second"), "nobody")
    await store.call("SET", view.id("u12"), n[-1])  # the erased one
    return [("missing", "id", n[0], None), ("wrong", "id", n[1], None)] + [
        ("wrong", "login", n[1], None),
        ("extra", "id", n[-1], None),
    ]


async def stale_look_ups(store: Store, view: View, n: list[int]) -> list[Named]:
    """Names that nobody has, or has any more."""
    await store.call("SET", view.login("u2"), n[1])
    await store.call("SET", view.login("nobody"), 10**12)
    await store.call("SET", view.id("Nobody"), "x")
    return [("extra", "login", None, None), ("extra", "login", None, None), ("extra", "id", None, None)]


async def strangers_keys(store: Store, view: View, n: list[int]) -> list[Named]:
    """Lists and profiles of users who never were, or in a lane that is not theirs; names that are none of ours."""
    stranger, lane = 10**12, view.lane_of(n[0]) + 1
    await store.call("ZADD", view.following(stranger), 1, member(n[0]))
    await store.call("SET", view.user(stranger), "{}")
    misplaced = view.user(n[0]).replace(f".{view.lane_of(n[0])}}}", f".{lane}}}")
    for key in (misplaced, view.live(1) + "x", view.user(n[0]) + "x", view.pattern().replace("*", "0}")):
        await store.call("SET", key, "x")
    await store.call("SET", view.pattern().replace("*", f"{view.lanes}}}:x"), "x")
    await store.call("SET", view.login("x").encode() + b"\xff\x00", "x")
    return [("extra", "key", stranger, None)] * 2 + [("extra", "key", None, None)] * 6


async def strangers_fields(store: Store, view: View, n: list[int]) -> list[Named]:
    lane = view.lane_of(n[0])
    await store.call("HSET", view.logins(lane), 10**12, "stranger", f"0{n[0]}", "u1", "x", "y")
    await store.call("HSET", view.logins((lane + 1) % view.lanes), n[0], "u1")
    await store.call("ZADD", view.live(lane), 3, member(10**12))
    await store.call("ZADD", view.last_broadcast((lane + 1) % view.lanes), 3, member(n[0]))
    return [("extra", "login of", None, None)] * 4 + [
        ("extra", "live", None, None),
        ("extra", "last broadcast", None, None),
    ]


BREAKS: tuple[Break, ...] = (
    missing_entry,
    extra_entry,
    foreign_members,
    wrong_scores,
    lost_list,
    list_of_another_type,
    wrong_profile,
    lost_profiles,
    wrong_login_fields,
    wrong_broadcasts,
    wrong_look_ups,
    stale_look_ups,
    strangers_keys,
    strangers_fields,
)


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda one: str(one.__name__))
async def test_what_is_broken_is_named_and_nothing_else(engine: Engine, store: Store, break_it: Break) -> None:
    numbers = await populate(engine)
    view = await viewed(engine, store)
    broken = await break_it(store, view, numbers)
    seen, verdict = await compared(engine, store, view)
    assert sorted(map(repr, seen)) == sorted(map(repr, broken))
    assert not verdict.clean and verdict.unsettled == 0
    assert await differences(engine, store, view) == len(broken)
