"""Users in the views: look-ups of old logins are deleted, and of an erased user everything."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from commands.db.postgres import Engine
from commands.users import BroadcastChanges, UserChanges
from projections.client.client import RedisClient
from tests.support.fixtures import Plain
from tests.support.intercepted_redis import Killed
from tests.support.log_writes import erase
from tests.support.random_histories import VIEW, World, assert_up_to_date
from tests.support.view_model import actual, expected


@pytest.fixture
async def world(
    engine: Engine, redis: RedisClient, sql: psycopg.Connection[Any], raw_redis: Plain
) -> AsyncIterator[World]:
    """An empty log, a prepared view, a worker."""
    begun = World(engine, redis, sql, raw_redis)
    await begun.begin()
    yield begun
    await begun.end()


async def test_rename_deletes_look_up_of_old_login(world: World) -> None:
    """After one rename or several in a batch."""
    await world.people.put("alice", UserChanges(username="first"))
    await assert_up_to_date(world)
    for name in ("second", "third", "fourth"):
        await world.people.put("alice", UserChanges(username=name))
    await assert_up_to_date(world)
    names = {name.partition(":login:")[2] for name in actual(world.raw_redis, VIEW) if ":login:" in name}
    assert names == {"fourth"}


async def test_login_taken_by_other_user_is_looked_up_as_theirs(world: World) -> None:
    """Released and taken in one batch, in either order of the users' numbers; swapped; and taken back."""
    await world.people.put("alice", UserChanges(username="one"))
    await world.people.put("bob", UserChanges(username="two"))
    await assert_up_to_date(world)
    for id_, name in [("bob", "spare"), ("alice", "two"), ("bob", "one")]:
        await world.people.put(id_, UserChanges(username=name))
    await assert_up_to_date(world)
    assert world.raw_redis.get(VIEW.login("one")) == b"2" and world.raw_redis.get(VIEW.login("two")) == b"1"
    for id_, name in [("alice", "spare"), ("bob", "two"), ("alice", "one")]:
        await world.people.put(id_, UserChanges(username=name))
    await assert_up_to_date(world)
    assert world.raw_redis.get(VIEW.login("one")) == b"1" and world.raw_redis.get(VIEW.login("two")) == b"2"


@pytest.mark.parametrize(
    "arriving", [{partition for partition in range(4) if mask & 1 << partition} for mask in range(16)], ids=str
)
async def test_look_up_of_old_login_is_deleted_after_kill_between_partitions(world: World, arriving: set[int]) -> None:
    """Whichever partitions got the batch before the kill, the successor does the rest."""
    await world.people.put("alice", UserChanges(username="first"))
    await world.people.put("bob", UserChanges(username="other"))
    await assert_up_to_date(world)
    await world.people.put("alice", UserChanges(username="second"))
    await erase(world.engine, "bob")
    await world.people.put("carol", UserChanges(username="first"))
    world.arrives = lambda checkpoint: checkpoint in [VIEW.checkpoint(partition) for partition in arriving]
    with suppress(Killed):
        await world.projector.step()
    await world.start_successor()
    await assert_up_to_date(world)


async def test_erased_user_leaves_no_key_and_no_value(world: World) -> None:
    """Neither login, name and id nor any profile field; only the number stays."""
    changes = UserChanges(
        username="Zanzibar", display_name="Zanzibar Q", bio="zanzibar's bio", email="zanzibar@example.com"
    )
    await world.people.put("zanzibar-id", changes)
    await world.people.put("bob", UserChanges())
    await world.people.put_broadcast("zanzibar-id", BroadcastChanges(title="zanzibar live", viewers=3))
    await world.run([("follow", 0, 1)])
    await assert_up_to_date(world)
    assert "zanzibar" in _everything(world.raw_redis)
    await erase(world.engine, "zanzibar-id")
    await assert_up_to_date(world)
    assert "zanzibar" not in _everything(world.raw_redis)
    assert actual(world.raw_redis, VIEW)[VIEW.user(1)].erased
    assert not world.raw_redis.exists(VIEW.following(1), VIEW.live(1), VIEW.last_broadcast(1), VIEW.logins(1))


async def test_user_registered_again_is_looked_up_again(world: World) -> None:
    """Under the old number, with nothing of the old profile."""
    await world.people.put("alice", UserChanges(username="first", bio="before"))
    await assert_up_to_date(world)
    await erase(world.engine, "alice")
    await world.people.put("alice", UserChanges(username="again"))
    await assert_up_to_date(world)
    assert world.raw_redis.get(VIEW.id("alice")) == world.raw_redis.get(VIEW.login("again")) == b"1"
    assert actual(world.raw_redis, VIEW)[VIEW.user(1)].bio is None


async def test_broadcast_is_in_its_sets(world: World) -> None:
    """Live with its viewers while it runs; its start stays after its end."""
    await world.people.put("chan", UserChanges())
    for viewers in (5, 9, None):
        if viewers is None:
            await world.people.end_broadcast("chan")
        else:
            await world.people.put_broadcast("chan", BroadcastChanges(viewers=viewers))
        await assert_up_to_date(world)
        assert world.raw_redis.zscore(VIEW.live(1), "11") == viewers
    assert (
        world.raw_redis.zscore(VIEW.last_broadcast(1), "11") == expected(world.sql, VIEW)[VIEW.last_broadcast(1)]["11"]
    )


def _everything(raw_redis: Plain) -> str:
    """Return all keys and values as one text."""
    texts: list[str] = []
    for key in raw_redis.scan_iter(count=1000):
        texts.append(key.decode())
        texts.append(
            str({b"string": raw_redis.get, b"hash": raw_redis.hgetall}.get(raw_redis.type(key), lambda _: "")(key))
        )
    return " ".join(texts).lower()
