"""Mending what was parked: the pair comes back as the log has it, and what waited behind it is let go."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from commands import log, parking
from commands.events import AnyEvent, UserFollowed, UserUnfollowed
from commands.log import Draft
from commands.postgres import Engine
from commands.users import BroadcastChanges, UserChanges
from projections import unparking
from projections.setting_aside import Aside
from projections.store import Store
from projections.unparking import StillParked, retry, skip
from tests.commands.writing import append, register, rows
from tests.opened import Plain
from tests.projections.histories import VIEW, World
from tests.projections.model import actual, expected, positions


@pytest.fixture
async def world(engine: Engine, store: Store, sql: psycopg.Connection[Any], redis: Plain) -> AsyncIterator[World]:
    """Begun: an empty log but for eight users, a prepared view, a worker."""
    begun = World(engine, store, sql, redis)
    await begun.begin()
    assert await register(engine, *[f"u{number}" for number in range(1, 9)]) == list(range(1, 9))
    await begun.catch_up()
    yield begun
    await begun.end()


def write_badly(world: World, pair: tuple[int, int], version: int, type_: str = "UserFollowed") -> int:
    """An event that this version cannot read; its position."""
    return int(
        rows(
            world.sql,
            """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
            VALUES (nextval('events_position'), %s, %s, %s, %s, next_recorded_at(), %s) RETURNING position""",
            [*pair, version, type_, '{"notifications": 5, "viewers": "x"}'],
        )[0][0]
    )


async def append_behind(world: World, pair: tuple[int, int], version: int, *events: AnyEvent) -> int:
    """Append to a pair whose newest event the write side cannot read either; the last position."""
    async with world.engine.connect() as connection:
        for at, event in enumerate(events, version):
            written = await log.append(connection, [Draft(*pair, at, event)])
    return written[0][0]


def make_readable(world: World, position: int) -> None:
    """What a new version of the code does, done to the event."""
    world.sql.execute("SET session_replication_role = replica")
    world.sql.execute("UPDATE events SET data = NULL WHERE position = %s", [position])
    world.sql.execute("SET session_replication_role = origin")


async def waiting(world: World) -> list[int]:
    """The positions that are parked."""
    return [row.position for row in await parking.parked(world.engine)]


async def whole(world: World) -> None:
    """Nothing waits, every lane is at the end, and the view is the log."""
    await world.catch_up()
    assert await waiting(world) == []
    assert actual(world.redis, VIEW) == expected(world.sql, VIEW)
    assert positions(world.redis, VIEW) == [(await log.head(world.engine)).position] * 4


async def test_a_pair_comes_back_when_its_event_can_be_read(world: World) -> None:
    """With all that waited behind it; from then on it is projected like any other."""
    position = write_badly(world, (1, 2), 1)
    await append(world.engine, 2, 3, UserFollowed())
    await world.catch_up()
    later = await append_behind(world, (1, 2), 2, UserUnfollowed(), UserFollowed(notifications=True))
    await world.catch_up()
    assert await waiting(world) == [position, later - 1, later]
    assert not world.redis.exists(VIEW.following(1), VIEW.followers(2))
    unreadable = write_badly(world, (1, 4), 1)
    await world.catch_up()
    with pytest.raises(StillParked, match="cannot be read"):
        await retry(world.engine, world.store, VIEW, 1, 4)
    make_readable(world, position)
    assert await retry(world.engine, world.store, VIEW, 1, 2) == 3
    assert await waiting(world) == [unreadable]
    await append(world.engine, 1, 2, UserUnfollowed())
    make_readable(world, unreadable)
    assert await retry(world.engine, world.store, VIEW, 1, 4) == 1
    await whole(world)


async def test_a_key_of_another_type_is_made_anew(world: World) -> None:
    """With the entries that were in it before, and those that its type kept out; both sides of the pair agree again."""
    for subject in (1, 3, 4):
        await append(world.engine, subject, 2, UserFollowed())
    await world.catch_up()
    world.redis.set(VIEW.followers(2), "not a list")
    for subject in (5, 6):
        await append(world.engine, subject, 2, UserFollowed())
    await append(world.engine, 3, 2, UserUnfollowed())
    await append(world.engine, 7, 8, UserFollowed())
    await world.catch_up()
    pairs = {(row.subject, row.object) for row in await parking.parked(world.engine)}
    assert pairs == {(5, 2), (6, 2), (3, 2)} and world.redis.exists(VIEW.followers(8))
    for pair in sorted(pairs):
        await retry(world.engine, world.store, VIEW, *pair)
    await whole(world)


@pytest.mark.parametrize("key", ["logins", "live", "last_broadcast"])
async def test_a_key_that_a_lane_shares_is_made_anew_for_all(world: World, key: str) -> None:
    """It holds something of every user of the lane, not only of him whose event was refused."""
    for id_ in ("u1", "u5", "u2"):
        await world.people.put_broadcast(id_, BroadcastChanges(viewers=3))
    await world.catch_up()
    name = getattr(VIEW, key)(1)
    world.redis.delete(name)
    world.redis.set(name, "nothing that belongs here")
    await world.people.put("u1", UserChanges(username="renamed"))
    await world.catch_up()
    assert [(row.subject, row.object) for row in await parking.parked(world.engine)] == [(1, 1)]
    await retry(world.engine, world.store, VIEW, 1, 1)
    await whole(world)


async def test_a_users_own_event_needs_only_his_row(world: World) -> None:
    """What it says is not in the views, so it can be let go without being read; renames behind it leave nothing."""
    write_badly(world, (3, 3), 2, "BroadcastChanged")
    await world.people.put("u3", UserChanges(username="other", bio="new"))
    await world.catch_up()
    assert len(await waiting(world)) == 2 and world.redis.exists(VIEW.login("u3"))
    assert await retry(world.engine, world.store, VIEW, 3, 3) == 2
    await whole(world)


async def test_a_skipped_event_is_as_if_it_were_not_there(world: World) -> None:
    """Also for a replay. Who decided it and why is kept."""
    await append(world.engine, 1, 2, UserFollowed())
    position = write_badly(world, (1, 2), 2)
    await world.catch_up()
    before = actual(world.redis, VIEW)
    (row,) = await parking.parked(world.engine)
    await skip(world.engine, world.store, VIEW, row, "ann", "a test")
    assert actual(world.redis, VIEW) == before and await waiting(world) == []
    (skipped,) = await parking.parked(world.engine, skipped=True)
    assert (skipped.position, skipped.skipped_by, skipped.skipped_why) == (position, "ann", "a test")
    await append_behind(world, (1, 2), 3, UserUnfollowed(), UserFollowed(notifications=True))
    await world.catch_up()
    after = actual(world.redis, VIEW)
    assert await waiting(world) == [] and after != before
    for key in world.redis.scan_iter(count=1000):
        if not key.endswith(b":checkpoint"):
            world.redis.delete(key)
    for lane in range(4):
        world.redis.hset(VIEW.checkpoint(lane), mapping={"position": 0, "stamp": 0})
    await world.succeed()
    await world.catch_up()
    assert actual(world.redis, VIEW) == after and await waiting(world) == []


async def test_a_skip_lets_go_what_was_behind(world: World) -> None:
    """At once, from the log, whatever the skipped event would have said."""
    write_badly(world, (1, 2), 1)
    await append_behind(world, (1, 2), 2, UserUnfollowed(), UserFollowed(created_at=77))
    await world.catch_up()
    row = (await parking.parked(world.engine))[0]
    assert await skip(world.engine, world.store, VIEW, row, "ann", "a test") == 2
    assert world.redis.zrange(VIEW.followers(2), 0, -1, withscores=True) == [(b"11", 154.0)]


async def test_what_comes_before_the_parked_event_is_projected(world: World) -> None:
    """A rebuild passes by a parked pair's earlier events: only what comes from there on waits."""
    await append(world.engine, 1, 2, UserFollowed())
    write_badly(world, (1, 2), 2)
    await world.catch_up()
    assert world.redis.exists(VIEW.followers(2)) and len(await waiting(world)) == 1
    world.redis.delete(VIEW.followers(2), VIEW.following(1))
    for lane in range(4):
        world.redis.hset(VIEW.checkpoint(lane), mapping={"position": 0, "stamp": 0})
    await world.succeed()
    await world.catch_up()
    assert world.redis.exists(VIEW.followers(2), VIEW.following(1)) == 2 and len(await waiting(world)) == 1


async def test_nothing_is_parked_behind_what_has_been_mended(world: World) -> None:
    """A worker who has not heard yet that the pair is free asks the table, in the statement that would park."""
    position = write_badly(world, (1, 2), 1)
    await world.catch_up()
    aside = Aside(world.engine)
    await aside.refresh()
    make_readable(world, position)
    await retry(world.engine, world.store, VIEW, 1, 2)
    written = await append(world.engine, 1, 2, UserUnfollowed())
    assert list(await aside.sort_out(written)) == written and await waiting(world) == []
    await whole(world)


async def test_events_that_come_while_a_pair_is_mended_are_let_go_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on all the time and parks them behind, until in some round there are none."""
    position = write_badly(world, (1, 2), 1)
    await world.catch_up()
    make_readable(world, position)
    events: list[AnyEvent] = [UserUnfollowed(), UserFollowed(notifications=True), UserUnfollowed(), UserFollowed()]
    real = unparking._mend_follow

    async def meanwhile(*arguments: Any) -> int:
        reached = await real(*arguments)
        if events:
            await append(world.engine, 1, 2, events.pop(0))
            await world.catch_up()
        return reached

    monkeypatch.setattr(unparking, "_mend_follow", meanwhile)
    assert await asyncio.wait_for(retry(world.engine, world.store, VIEW, 1, 2), 10) == 5
    assert not events
    await whole(world)


async def test_killed_between_its_lanes_a_retry_is_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair stays parked until both sides are mended, and is told as such."""
    position = write_badly(world, (1, 2), 1)
    await world.catch_up()
    make_readable(world, position)
    real, calls = unparking._write, []

    async def dies(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return await real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(unparking, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            await retry(world.engine, world.store, VIEW, 1, 2)
    assert await waiting(world) == [position]
    await retry(world.engine, world.store, VIEW, 1, 2)
    await whole(world)
