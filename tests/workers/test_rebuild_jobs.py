"""The check for an orphaned rebuild job: one whose process is gone is removed, and one that is alive is left alone."""

from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis

from commands.db.postgres import Engine
from commands.errors import ViewsUnavailable
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from projections.metrics.publish import Totals
from projections.rebuild.build import BuildLease
from projections.signals.job_queue import open_queue
from projections.signals.wakeups import Wakeup
from tests.support.queues import NAMES, queue_of
from workers.metrics import REBUILDER, publish_rebuilder
from workers.rebuild_jobs import OrphanedJob, running_note


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[ArqRedis]:
    """The queue, in which the job is noted as running."""
    opened = await open_queue(queue_of(queue_url))
    await opened.set(running_note(NAMES), b"1")
    yield opened
    await opened.aclose()


async def is_noted_after_two_checks(orphaned: OrphanedJob, queue: ArqRedis) -> bool:
    """Return whether the job is still noted as running then."""
    for _ in range(2):
        await orphaned.check()
    return bool(await queue.exists(running_note(NAMES)))


async def test_job_without_process_is_removed(
    engine: Engine, redis: RedisClient, wakeup: Wakeup, queue: ArqRedis
) -> None:
    assert not await is_noted_after_two_checks(OrphanedJob(engine, redis, wakeup, orphaned_s=0.0), queue)


async def test_job_that_has_just_begun_is_left_alone(
    engine: Engine, redis: RedisClient, wakeup: Wakeup, queue: ArqRedis
) -> None:
    assert await is_noted_after_two_checks(OrphanedJob(engine, redis, wakeup), queue)


async def test_job_that_runs_here_or_elsewhere_is_left_alone(
    engine: Engine, redis: RedisClient, wakeup: Wakeup, queue: ArqRedis
) -> None:
    """The job itself shows that it runs here, the lease that it runs elsewhere."""
    orphaned = OrphanedJob(engine, redis, wakeup, orphaned_s=0.0)
    orphaned.runs_here = True
    assert await is_noted_after_two_checks(orphaned, queue)
    orphaned.runs_here = False
    async with BuildLease(engine, redis):
        assert await is_noted_after_two_checks(orphaned, queue)
    assert not await is_noted_after_two_checks(orphaned, queue)


async def test_check_does_not_look_at_owners_who_cannot_renew_without_redis(
    engine: Engine, wakeup: Wakeup, queue: ArqRedis
) -> None:
    """The queue answers, and the Redis of the views does not."""
    away = open_redis(RedisClientSettings("unix:///nowhere.sock?db=0"))
    with pytest.raises(ViewsUnavailable):
        await OrphanedJob(engine, away, wakeup).check()
    await away.close()


async def test_time_in_which_a_lease_was_held_does_not_count(
    engine: Engine, redis: RedisClient, wakeup: Wakeup, queue: ArqRedis
) -> None:
    """A check starts to count again after each that found the job alive."""
    orphaned = OrphanedJob(engine, redis, wakeup, orphaned_s=0.2)
    await orphaned.check()
    async with BuildLease(engine, redis):
        await orphaned.check()
    assert await is_noted_after_two_checks(orphaned, queue)


async def test_check_notes_how_many_rebuilds_wait_or_run(
    engine: Engine, redis: RedisClient, wakeup: Wakeup, queue: ArqRedis
) -> None:
    """Also while one runs here; None while the queue is away."""
    orphaned = OrphanedJob(engine, redis, wakeup)
    orphaned.runs_here = True
    await queue.zadd(NAMES.rebuild_queue(), {"rebuild": 1})
    await orphaned.check()
    publish_rebuilder(redis, orphaned, Totals())
    assert REBUILDER.get_sample_value("follows_rebuilds_queued") == 1
    gone = OrphanedJob(engine, redis, Wakeup(queue_of("unix:///nowhere.sock?db=0")))
    gone.runs_here = True
    await gone.check()
    assert gone.queued is None
