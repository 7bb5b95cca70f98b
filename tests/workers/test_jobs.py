"""The job that wakes a loop, by itself and through the queue."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from arq.connections import ArqRedis

from commands.db.postgres import Engine
from commands.events import UserFollowed
from projections.client.client import RedisClient
from projections.keys import LogNames
from projections.signals.job_queue import WAKE_JOB, QueueSettings, open_queue
from projections.signals.wakeups import Wakeup
from tests.support.breakable_servers import Breakable
from tests.support.live_view import ONLY_WOKEN, projecting, up_to_date_view
from tests.support.log_writes import append
from tests.support.queues import NAMES, queue_of
from tests.support.waiting import until
from workers.jobs import wake
from workers.settings import make_worker
from workers.supervise import run_arq


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[ArqRedis]:
    """The queue as arq has it."""
    opened = await open_queue(queue_of(queue_url))
    yield opened
    await opened.aclose()


async def queued(queue: ArqRedis) -> list[str]:
    """Return the ids of the jobs in the queue."""
    return sorted(id_.decode().removeprefix(NAMES.job("")) for id_ in await queue.zrange(NAMES.queue(), 0, -1))


async def test_wake_job_makes_an_idle_loop_read_the_log(engine: Engine, redis: RedisClient, queue_url: str) -> None:
    async with projecting(engine, redis, queue_of(queue_url), ONLY_WOKEN) as loop:
        await up_to_date_view(engine, redis)
        await append(engine, 70, 71, UserFollowed())
        await wake({"loop": loop})
        await up_to_date_view(engine, redis)


async def test_enqueued_wake_job_reaches_the_loop(
    engine: Engine, redis: RedisClient, queue: ArqRedis, queue_url: str
) -> None:
    settings = queue_of(queue_url)
    async with projecting(engine, redis, settings, ONLY_WOKEN) as loop:
        await up_to_date_view(engine, redis)
        await append(engine, 70, 71, UserFollowed())
        running = asyncio.create_task(run_arq(settings, partial(make_worker, {"loop": loop}, NAMES)))
        await queue.enqueue_job(WAKE_JOB, _job_id=NAMES.job(WAKE_JOB), _queue_name=NAMES.queue())
        await up_to_date_view(engine, redis)
        running.cancel()
        await asyncio.wait({running})
    assert await queued(queue) == []


async def test_job_of_an_unknown_kind_is_one_line_and_not_tried_again(
    queue: ArqRedis, queue_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer version has enqueued it. Jobs that are known run as ever."""
    woken = asyncio.Event()

    class Loop:
        def wake(self) -> None:
            woken.set()

    settings = queue_of(queue_url)
    await queue.enqueue_job("reindex", _job_id=NAMES.job("reindex"), _queue_name=NAMES.queue())
    running = asyncio.create_task(run_arq(settings, partial(make_worker, {"loop": Loop()}, NAMES)))
    await until(lambda: "reindex" in caplog.text)
    await enqueue(settings)
    await until(woken.is_set)
    await until(lambda: _is_empty(queue))  # arq notes the end of a job in a task of its own
    running.cancel()
    await asyncio.wait({running})
    lines = [record for record in caplog.records if record.levelname != "INFO"]
    assert len(lines) == 1 and "function 'reindex' not found" in lines[0].getMessage()
    assert lines[0].exc_info is None and await queued(queue) == []


async def test_queue_that_comes_back_runs_jobs_again(fragile: Breakable) -> None:
    """arq ends with its Redis; the next one starts when that is back."""
    woken = asyncio.Event()

    class Loop:
        def wake(self) -> None:
            woken.set()

    settings = queue_of(fragile.url)
    running = asyncio.create_task(run_arq(settings, partial(make_worker, {"loop": Loop()}, NAMES)))
    for _ in range(2):
        await enqueue(settings)
        await until(woken.is_set)
        woken.clear()
        fragile.restart()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()


async def test_job_that_ends_while_the_queue_hangs_leaves_no_failed_task(fragile: Breakable) -> None:
    """The worker is stopped while arq tells the queue of the end; the queue is killed afterwards."""
    frozen = ExitStack()
    ended = asyncio.Event()

    class Loop:
        def wake(self) -> None:
            frozen.enter_context(fragile.frozen())
            ended.set()

    settings = queue_of(fragile.url)
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    await enqueue(settings)
    running = asyncio.create_task(run_arq(settings, partial(make_worker, {"loop": Loop()}, NAMES)))
    await until(ended.is_set)
    await until(_ends_a_job)
    running.cancel()
    await asyncio.wait({running})
    frozen.close()
    fragile.restart()
    await until(lambda: not _ends_a_job())
    gc.collect()
    assert running.cancelled() and unhandled == []


def _ends_a_job() -> bool:
    """Return True while arq tells the queue in a task of its own that a job has ended."""
    return any("finish_job" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def _is_empty(queue: ArqRedis) -> bool:
    return await queued(queue) == []


async def enqueue(settings: QueueSettings) -> None:
    """Enqueue a wake job."""
    wakeup = Wakeup(settings)
    await until(lambda: wakeup.ask(_enqueue_wake))
    await wakeup.close()


async def _enqueue_wake(queue: ArqRedis, names: LogNames) -> bool:
    await queue.enqueue_job(WAKE_JOB, _job_id=names.job(WAKE_JOB), _queue_name=names.queue())
    return True  # also if a try before, which was not answered in time, has enqueued it
