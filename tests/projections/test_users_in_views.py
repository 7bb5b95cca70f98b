"""Users in the views: who gives a name up leaves no look-up behind, and of an erased person nothing is left at all."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from commands.postgres import Engine
from commands.users import BroadcastChanges, UserChanges
from projections.store import Store
from tests.commands.writing import erase
from tests.opened import Plain
from tests.projections.histories import VIEW, Killed, World, settled
from tests.projections.model import actual, expected


@pytest.fixture
async def world(engine: Engine, store: Store, sql: psycopg.Connection[Any], redis: Plain) -> AsyncIterator[World]:
    """Begun: an empty log, a prepared view, a worker."""
    begun = World(engine, store, sql, redis)
    await begun.begin()
    yield begun
    await begun.end()


async def test_a_rename_drops_the_old_look_up(world: World) -> None:
    """The new login is found and the old is not, after as many renames as there may be in one batch."""
    await world.people.put("alice", UserChanges(username="first"))
    await settled(world)
    for name in ("second", "third", "fourth"):
        await world.people.put("alice", UserChanges(username=name))
    await settled(world)
    names = {name.partition(":login:")[2] for name in actual(world.redis, VIEW) if ":login:" in name}
    assert names == {"fourth"}


async def test_a_name_taken_over_is_the_new_owners(world: World) -> None:
    """Given up and taken in one batch, in either order of the users' numbers; swapped; and taken back."""
    await world.people.put("alice", UserChanges(username="one"))
    await world.people.put("bob", UserChanges(username="two"))
    await settled(world)
    for id_, name in [("bob", "spare"), ("alice", "two"), ("bob", "one")]:
        await world.people.put(id_, UserChanges(username=name))
    await settled(world)
    assert world.redis.get(VIEW.login("one")) == b"2" and world.redis.get(VIEW.login("two")) == b"1"
    for id_, name in [("alice", "spare"), ("bob", "two"), ("alice", "one")]:
        await world.people.put(id_, UserChanges(username=name))
    await settled(world)
    assert world.redis.get(VIEW.login("one")) == b"1" and world.redis.get(VIEW.login("two")) == b"2"


@pytest.mark.parametrize("arriving", [{lane for lane in range(4) if mask & 1 << lane} for mask in range(16)], ids=str)
async def test_the_old_look_up_goes_also_when_the_worker_dies_between_lanes(world: World, arriving: set[int]) -> None:
    """Whichever lanes got the batch of a rename and an erasure before the kill, the successor does the rest."""
    await world.people.put("alice", UserChanges(username="first"))
    await world.people.put("bob", UserChanges(username="other"))
    await settled(world)
    await world.people.put("alice", UserChanges(username="second"))
    await erase(world.engine, "bob")
    await world.people.put("carol", UserChanges(username="first"))
    world.cut.arrives = lambda checkpoint: checkpoint in [VIEW.checkpoint(lane) for lane in arriving]
    with suppress(Killed):
        await world.projector.step()
    await world.succeed()
    await settled(world)


async def test_of_an_erased_person_no_key_and_no_value_is_left(world: World) -> None:
    """Login, name, id and whatever a service said of him: nothing of it anywhere in Redis; his number stays."""
    said = UserChanges(
        username="Zanzibar", display_name="Zanzibar Q", bio="zanzibar's bio", email="zanzibar@example.com"
    )
    await world.people.put("zanzibar-id", said)
    await world.people.put("bob", UserChanges())
    await world.people.put_broadcast("zanzibar-id", BroadcastChanges(title="zanzibar live", viewers=3))
    await world.live([("follow", 0, 1)])
    await settled(world)
    assert "zanzibar" in _everything(world.redis)
    await erase(world.engine, "zanzibar-id")
    await settled(world)
    assert "zanzibar" not in _everything(world.redis)
    assert actual(world.redis, VIEW)[VIEW.user(1)].erased
    assert not world.redis.exists(VIEW.following(1), VIEW.live(1), VIEW.last_broadcast(1), VIEW.logins(1))


async def test_somebody_brought_back_is_found_again(world: World) -> None:
    """Under his old number, as he is now, with nothing of before."""
    await world.people.put("alice", UserChanges(username="first", bio="before"))
    await settled(world)
    await erase(world.engine, "alice")
    await world.people.put("alice", UserChanges(username="again"))
    await settled(world)
    assert world.redis.get(VIEW.id("alice")) == world.redis.get(VIEW.login("again")) == b"1"
    assert actual(world.redis, VIEW)[VIEW.user(1)].bio is None


async def test_broadcasts_stand_in_their_sets(world: World) -> None:
    """Live with its viewers while it runs; the last one's start stays, also when a later one is over."""
    await world.people.put("chan", UserChanges())
    for viewers in (5, 9, None):
        if viewers is None:
            await world.people.end_broadcast("chan")
        else:
            await world.people.put_broadcast("chan", BroadcastChanges(viewers=viewers))
        await settled(world)
        assert world.redis.zscore(VIEW.live(1), "11") == viewers
    assert world.redis.zscore(VIEW.last_broadcast(1), "11") == expected(world.sql, VIEW)[VIEW.last_broadcast(1)]["11"]


def _everything(redis: Plain) -> str:
    """All keys and values as one text."""
    parts: list[str] = []
    for key in redis.scan_iter(count=1000):
        parts.append(key.decode())
        parts.append(str({b"string": redis.get, b"hash": redis.hgetall}.get(redis.type(key), lambda _: "")(key)))
    return " ".join(parts).lower()
