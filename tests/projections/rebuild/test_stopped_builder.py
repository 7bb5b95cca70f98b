"""A builder that was stopped until another took its lease, and goes on: readers keep a whole view."""

from typing import Any
from uuid import uuid4

import pytest

from commands.coordination import leases
from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.errors import BuildRunning, Fenced, ViewLost
from projections.feeding.histories import keep
from projections.keys import View
from projections.projector.projector import Projector
from projections.rebuild import build
from projections.rebuild.build import BuildLease
from projections.rebuild.rebuild import Builder, RebuildOptions
from projections.rebuild.switch import switch_readers
from projections.signals.job_queue import QueueSettings
from projections.views import generations
from tests.support.rebuilds import NoWakeups, built, rebuilt


async def filled(engine: Engine, redis: RedisClient) -> Projector:
    """Return the projector of a new generation that is filled and not live, as a builder has it before its switch."""

    async def go_on(_: object) -> None: ...

    fence = await leases.next_fence(engine)
    view = await build.start_or_resume(engine, redis, 64, fence, "stopped")
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), fence))
    await projector.load()
    await build.fill(engine, redis, projector, go_on)
    return projector


async def is_live_and_whole(redis: RedisClient, view: View) -> bool:
    """Return whether readers see this view, with all its partitions."""
    found = await generations.checkpoints(redis, view, range(view.partitions))
    return await generations.live_view(redis) == view and None not in found.values()


def unreachable() -> RedisClient:
    """Return a client of a Redis that refuses connections."""
    return open_redis(RedisClientSettings("redis://127.0.0.1:1/0"))


async def test_view_that_the_next_build_has_deleted_does_not_go_live(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """The builder was stopped before its switch. The next one has another number of partitions, so it begins again."""
    await built(engine, redis, queue)
    projector = await filled(engine, redis)
    newer = await rebuilt(engine, redis, queue, RebuildOptions(partitions=16))
    with pytest.raises(ViewLost):
        await switch_readers(engine, redis, NoWakeups(), projector)
    assert await is_live_and_whole(redis, newer)


async def test_next_builder_fences_off_a_switch_that_was_stopped_just_before_the_pointer(
    engine: Engine, redis: RedisClient, queue: QueueSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await built(engine, redis, queue)
    projector = await filled(engine, redis)
    last_step = generations.evicted_at_begin

    async def prune_first(*arguments: Any) -> dict[str, int]:
        async with Builder(engine, redis, queue) as other:
            assert projector.view.generation in await other.prune()
        return await last_step(*arguments)

    monkeypatch.setattr(generations, "evicted_at_begin", prune_first)
    with pytest.raises(Fenced):
        await switch_readers(engine, redis, NoWakeups(), projector)
    assert await is_live_and_whole(redis, old)


async def test_switch_from_a_view_that_was_taken_away_meanwhile_is_refused(
    engine: Engine, redis: RedisClient, queue: QueueSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has seen that the log lost its tail, and the new view has it, too. The pointer has no fence any more."""
    old = await built(engine, redis, queue)
    projector = await filled(engine, redis)
    last_step = generations.evicted_at_begin

    async def keep_first(*arguments: Any) -> dict[str, int]:
        await keep(engine, redis, old, "the log has lost its tail")
        return await last_step(*arguments)

    monkeypatch.setattr(generations, "evicted_at_begin", keep_first)
    with pytest.raises(Fenced):
        await switch_readers(engine, redis, NoWakeups(), projector)
    assert await generations.live_view(redis) is None


async def test_build_of_a_restored_database_draws_fences_above_that_of_the_pointer(
    engine: Engine, redis: RedisClient, queue: QueueSettings
) -> None:
    """Its sequence went back. The build would be refused at its end, after hours."""
    old = await built(engine, redis, queue)
    assert await generations.switch(redis, old, await leases.next_fence(engine) + 100)
    newer = await rebuilt(engine, redis, queue)
    assert await is_live_and_whole(redis, newer)


async def test_builder_that_waits_while_redis_is_away_takes_no_owner_for_dead(engine: Engine) -> None:
    """No owner renews meanwhile."""
    owner, away = uuid4(), unreachable()
    await leases.acquire(engine, leases.BUILD_LEASE, owner)
    with pytest.raises(BuildRunning):
        async with BuildLease(engine, away, wait_s=leases.LOOKS * leases.LOOK_S, store=""):
            pass
    await away.close()
    assert [lease.owner for lease in await leases.list_leases(engine)] == [owner]


async def test_lease_is_given_back_when_the_pointer_cannot_be_fenced(engine: Engine) -> None:
    away = unreachable()
    with pytest.raises(ViewsUnavailable):
        async with BuildLease(engine, away, store=""):
            pass
    await away.close()
    assert await leases.list_leases(engine) == []
