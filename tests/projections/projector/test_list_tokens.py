"""The tokens of lists move with every change of a list, and with no other change."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest

from commands.db.postgres import Engine
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.users import BroadcastChanges, UserChanges
from projections.client.client import RedisClient, Script
from projections.projector.apply import APPLY
from projections.projector.projector import Projector
from tests.support.fixtures import Plain
from tests.support.intercepted_redis import Proceed, intercepted
from tests.support.log_writes import append, erase
from tests.support.random_histories import VIEW, World

FIRST, SECOND = 5, 6 + 16 * VIEW.partitions


@pytest.fixture
async def world(
    engine: Engine, redis: RedisClient, sql: psycopg.Connection[Any], raw_redis: Plain
) -> AsyncIterator[World]:
    """An empty log, a prepared view, a worker."""
    begun = World(engine, redis, sql, raw_redis)
    await begun.begin()
    yield begun
    await begun.end()


def tokens(world: World) -> dict[tuple[int, str], bytes]:
    """Return the tokens and salts of all partitions."""
    found = {}
    for partition in range(VIEW.partitions):
        for name, value in world.raw_redis.hgetall(VIEW.checkpoint(partition)).items():
            if name == b"salt" or name[1:].isdigit():
                found[partition, name.decode()] = value
    return found


async def moved(world: World) -> set[tuple[int, str]]:
    """Catch up; return what has got another token."""
    before = tokens(world)
    await world.catch_up()
    return {place for place, token in tokens(world).items() if before.get(place) != token}


def places(*numbers: int) -> set[tuple[int, str]]:
    """Return the tokens of these users' lists."""
    return {(VIEW.partition_of(number), VIEW.token_field(number)) for number in numbers}


async def test_change_of_a_follow_moves_the_tokens_of_both_lists(world: World) -> None:
    assert places(FIRST, SECOND) == {(1, "t1"), (2, "t1")}
    for event in (UserFollowed(), NotificationsChanged(True, 5), UserUnfollowed()):
        await append(world.engine, FIRST, SECOND, event)
        assert await moved(world) == places(FIRST, SECOND)
    assert await moved(world) == set()


async def test_registration_and_erasure_move_a_token_and_a_profile_does_not(world: World) -> None:
    """A page also says whether its user exists; a login is in the same place."""
    await world.people.put("alice", UserChanges(username="one"))
    number = await world.people.number("alice")
    assert await moved(world) == places(number)
    await world.people.put("alice", UserChanges(display_name="Alice"))
    await world.people.put_broadcast("alice", BroadcastChanges(viewers=3))
    assert await moved(world) <= places(number)
    await world.people.put_broadcast("alice", BroadcastChanges(viewers=4))
    assert await moved(world) == set()
    await erase(world.engine, "alice")
    assert await moved(world) == places(number)


async def test_new_worker_moves_no_token_and_one_after_an_older_version_changes_the_salt(world: World) -> None:
    before = tokens(world)
    assert set(before) == {(partition, "salt") for partition in range(VIEW.partitions)}
    await world.start_successor()
    assert tokens(world) == before
    world.raw_redis.hset(VIEW.checkpoint(1), "fence", world.fence)
    await world.start_successor()
    assert {place for place, token in tokens(world).items() if before[place] != token} == {(1, "salt")}


async def test_no_two_batches_of_a_partition_have_the_same_token(world: World) -> None:
    """Also those that write at an unchanged position, to find what Redis refuses, and those after lost writes."""
    sent: list[tuple[str, str]] = []

    async def on_run(script: Script, keys: Sequence[str], arguments: Sequence[Any], proceed: Proceed) -> Any:
        if script is APPLY:
            sent.append((keys[0], arguments[7]))
        return await proceed()

    fences = dict.fromkeys(range(VIEW.partitions), world.fence)
    projector = Projector(world.engine, intercepted(world.redis, on_run), VIEW, fences)
    await projector.load()
    world.raw_redis.set(VIEW.followers(2), "not a list")
    for subject in range(10, 30):
        await append(world.engine, subject, 2 if subject == 13 else 6, UserFollowed())
    await projector.step()
    world.raw_redis.hset(VIEW.checkpoint(2), "position", 0)
    await projector.check()
    await projector.step()
    await projector.close()
    assert len(sent) > 12 and len(set(sent)) == len(sent)
