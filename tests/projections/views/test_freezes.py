"""Freezes of partitions: one that is met for two seconds is broken, and what it was for is fenced off first."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from commands.coordination import leases
from commands.db.postgres import Engine
from projections.client.client import RedisClient, Script
from projections.errors import Fenced
from projections.keys import POINTER, View
from projections.projector.projector import Projector
from projections.rebuild.switch import switch_readers
from projections.signals.job_queue import QueueSettings
from projections.views import generations
from projections.views.freezes import FENCE_POINTER, FREEZE_MAX_S, Freezes
from projections.views.generations import POINT, RETIRE
from tests.support.clock import Clock
from tests.support.fixtures import Plain
from tests.support.intercepted_redis import Killed, Proceed, intercepted, killed_at
from tests.support.live_view import FAST, projecting, up_to_date_view
from tests.support.queues import queue_of
from tests.support.rebuilds import NoWakeups, built, rebuilt, undone
from tests.support.small_world import write
from tests.support.view_model import actual, expected, positions
from tests.support.waiting import until


@pytest.fixture
def clock() -> Clock:
    """The clock of the process that meets freezes."""
    return Clock()


@pytest.fixture
def queue(queue_url: str) -> QueueSettings:
    """The address of the wake-ups."""
    return queue_of(queue_url)


def pointer(raw_redis: Plain) -> dict[str, Any]:
    """Return the live pointer."""
    found: dict[str, Any] = msgspec.json.decode(raw_redis.get(POINTER))
    return found


def tokens(raw_redis: Plain, view: View) -> set[bytes | None]:
    """Return the tokens of the view's partitions."""
    return {raw_redis.hget(view.checkpoint(partition), "frozen") for partition in range(view.partitions)}


async def test_freeze_that_is_met_for_two_seconds_is_broken(
    engine: Engine, redis: RedisClient, raw_redis: Plain, clock: Clock
) -> None:
    """The clock of the process that meets it counts, and no other."""
    view, freezes = View(1, 1), Freezes(engine, redis, clock=clock)
    raw_redis.hset(view.checkpoint(0), mapping={"position": 0, "fence": 0, "frozen": "dead"})
    for _ in range(2):
        await freezes.wait(view.checkpoint(0), b"dead")
        clock.time += FREEZE_MAX_S - 0.1
        assert tokens(raw_redis, view) == {b"dead"}
    await freezes.wait(view.checkpoint(0), b"dead")
    assert tokens(raw_redis, view) == {None}


async def test_each_token_and_each_partition_is_timed_by_itself(
    engine: Engine, redis: RedisClient, raw_redis: Plain, clock: Clock
) -> None:
    """Repairs that follow one another are alive."""
    view, freezes = View(1, 2), Freezes(engine, redis, clock=clock)
    for partition in range(2):
        raw_redis.hset(view.checkpoint(partition), mapping={"position": 0, "fence": 0, "frozen": "e"})
    for token in (b"a", b"b", b"c", b"d"):
        await freezes.wait(view.checkpoint(0), token)
        clock.time += FREEZE_MAX_S
    await freezes.wait(view.checkpoint(0), b"e")
    await freezes.wait(view.checkpoint(1), b"e")
    assert tokens(raw_redis, view) == {b"e"}


async def test_new_freeze_is_left_alone_when_an_old_one_is_broken(
    engine: Engine, redis: RedisClient, raw_redis: Plain, clock: Clock
) -> None:
    """It came between the last look and the end of the old one."""
    view, freezes = View(1, 1), Freezes(engine, redis, clock=clock)
    raw_redis.hset(view.checkpoint(0), mapping={"position": 0, "fence": 0, "frozen": "new"})
    await freezes.wait(view.checkpoint(0), b"old")
    clock.time += FREEZE_MAX_S
    await freezes.wait(view.checkpoint(0), b"old")
    assert tokens(raw_redis, view) == {b"new"}


async def test_fence_is_in_the_pointer_before_the_partition_moves(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings, clock: Clock
) -> None:
    """And nothing else of the pointer has changed."""
    view = await built(engine, redis, queue)
    before = pointer(raw_redis)
    fence = await leases.next_fence(engine)
    raw_redis.hset(view.checkpoint(0), "frozen", "dead")
    freezes = Freezes(engine, killed_at(redis, 0, after=True, script=FENCE_POINTER), clock=clock)
    await freezes.wait(view.checkpoint(0), b"dead")
    clock.time += FREEZE_MAX_S
    with pytest.raises(Killed):
        await freezes.wait(view.checkpoint(0), b"dead")
    after = pointer(raw_redis)
    assert tokens(raw_redis, view) == {b"dead", None}, "not unfrozen yet"
    assert after.pop("fence") > fence > before.pop("fence") and after == before


async def test_fence_script_never_lowers_and_never_makes_a_pointer(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    assert await redis.run(FENCE_POINTER, [POINTER], [5]) == 0 and not raw_redis.exists(POINTER)
    await built(engine, redis, queue)
    before = pointer(raw_redis)
    for fence in (before["fence"] - 1, before["fence"]):
        assert await redis.run(FENCE_POINTER, [POINTER], [fence]) == before["fence"]
        assert pointer(raw_redis) == before
    assert await redis.run(FENCE_POINTER, [POINTER], [2**53]) == 2**53
    assert pointer(raw_redis) == before | {"fence": 2**53}


async def test_switch_that_was_stopped_until_its_freeze_was_broken_is_refused(
    engine: Engine, redis: RedisClient, raw_redis: Plain, sql: Any, queue: QueueSettings
) -> None:
    """Its process stops before the step at the pointer; a worker breaks the freeze and goes on; then it continues."""
    stopped, continues = asyncio.Event(), asyncio.Event()

    async def on_run(script: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        if script is POINT:
            stopped.set()
            await continues.wait()
        return await proceed()

    old = await built(engine, redis, queue)
    async with projecting(engine, redis, queue, FAST):
        await up_to_date_view(engine, redis)
        rebuilding = asyncio.create_task(rebuilt(engine, intercepted(redis, on_run), queue))
        await stopped.wait()
        await write(engine, (5, 6))
        assert await up_to_date_view(engine, redis) == old
        continues.set()
        with pytest.raises(Fenced):
            await rebuilding
        assert await up_to_date_view(engine, redis) == old and tokens(raw_redis, old) == {None}
        assert actual(raw_redis, old) == expected(sql, old)
        new = await rebuilt(engine, redis, queue)
        await write(engine, (6, 5))
        assert await up_to_date_view(engine, redis) == new and actual(raw_redis, new) == expected(sql, new)


async def test_builder_killed_before_the_pointer_delays_the_live_view_by_seconds_only(
    engine: Engine, redis: RedisClient, raw_redis: Plain, sql: Any, queue: QueueSettings
) -> None:
    """All partitions stay frozen, and no clock of a server would ever end that."""
    old = await built(engine, redis, queue)
    with pytest.raises(Killed):
        await rebuilt(engine, _killed_for_good(redis, POINT), queue)
    assert None not in tokens(raw_redis, old)
    async with projecting(engine, redis, queue, FAST):
        await write(engine, (5, 6))
        assert await up_to_date_view(engine, redis) == old and actual(raw_redis, old) == expected(sql, old)


async def test_builder_killed_between_pointer_and_retirement_leaves_nothing_that_blocks(
    engine: Engine, redis: RedisClient, raw_redis: Plain, sql: Any, queue: QueueSettings
) -> None:
    """A worker in the old view may break a freeze there: the new one stays live. Undo finds the old one usable."""
    old = await built(engine, redis, queue)
    async with projecting(engine, redis, queue, FAST):
        await up_to_date_view(engine, redis)
        with pytest.raises(Killed):
            await rebuilt(engine, _killed_for_good(redis, RETIRE), queue)
        new = await generations.live_view(redis)
        assert new is not None and new != old and None not in tokens(raw_redis, old)
        freezes = Freezes(engine, redis, max_s=0.0)
        for _ in range(2):
            token = raw_redis.hget(old.checkpoint(3), "frozen")
            await freezes.wait(old.checkpoint(3), token)
        assert raw_redis.hget(old.checkpoint(3), "frozen") is None
        await write(engine, (5, 6))
        assert await up_to_date_view(engine, redis) == new and actual(raw_redis, new) == expected(sql, new)
        await until(lambda: _may_build(engine))
        assert await undone(engine, redis, queue) == old and tokens(raw_redis, old) == {None}
        await write(engine, (6, 5))
        assert await up_to_date_view(engine, redis) == old and actual(raw_redis, old) == expected(sql, old)


async def test_retired_view_keeps_no_freeze(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Neither when it is retired nor when it is used again."""
    view = await built(engine, redis, queue)
    fence = await leases.next_fence(engine)
    for move in (generations.retire, generations.unretire, generations.unretire):
        raw_redis.hset(view.checkpoint(0), "frozen", "dead")
        assert await move(redis, view, fence)
        assert tokens(raw_redis, view) == {None}


async def test_switch_breaks_the_freeze_of_a_killed_repair(
    engine: Engine, redis: RedisClient, raw_redis: Plain, queue: QueueSettings
) -> None:
    """Over several tries: each of them alone is too short."""
    old = await built(engine, redis, queue)
    raw_redis.hset(old.checkpoint(1), "frozen", "dead")
    new = View(2, 8)
    await generations.prepare(redis, new, None, 9)
    projector = Projector(engine, redis, new, dict.fromkeys(range(8), 9))
    await projector.load()
    while await projector.step():
        pass
    await switch_readers(engine, redis, NoWakeups(), projector)
    assert await generations.live_view(redis) == new and min(positions(raw_redis, new)) > 0


def _killed_for_good(redis: RedisClient, script: Script) -> RedisClient:
    """Return a client whose process is killed at the first call of ``script``: nothing is sent after that."""
    killed = False

    async def on_run(called: Script, _: Sequence[str], __: Sequence[Any], proceed: Proceed) -> Any:
        nonlocal killed
        killed = killed or called is script
        if killed:
            raise Killed
        return await proceed()

    return intercepted(redis, on_run)


async def _may_build(engine: Engine) -> bool:
    return not any(lease.name == leases.BUILD_LEASE for lease in await leases.list_leases(engine))
