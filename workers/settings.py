"""The arq workers: which jobs they run, with which limits and serialisers."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from arq import func
from arq.connections import ArqRedis
from arq.worker import Worker
from redis.exceptions import RedisError

from projections.keys import LogNames
from projections.signals.job_queue import REBUILD_JOB, WAKE_JOB, encode_job
from workers.jobs import wake
from workers.rebuild_jobs import REBUILD_TIMEOUT_S, rebuild_views

logger: Final = logging.getLogger(__name__)

# A job that a worker's end cut off is simply run again: what it has done is in the log.
JOB_TRIES_MAX: Final = 1_000_000
# Waking the loop only sets an event.
WAKE_TIMEOUT_S: Final = 5.0


def make_worker(context: dict[str, Any], names: LogNames, queue: ArqRedis) -> Worker:
    """Return the arq worker of a worker process; ``context`` has what its jobs use."""
    functions = [func(wake, name=WAKE_JOB, timeout=WAKE_TIMEOUT_S, max_tries=JOB_TRIES_MAX)]
    return _worker(context, queue, queue_name=names.queue(), functions=functions)


def make_rebuilder(context: dict[str, Any], names: LogNames, queue: ArqRedis) -> Worker:
    """Return the arq worker of the rebuilder, which has a queue of its own."""
    functions = [func(rebuild_views, name=REBUILD_JOB, timeout=REBUILD_TIMEOUT_S, max_tries=JOB_TRIES_MAX)]
    return _worker(context, queue, queue_name=names.rebuild_queue(), functions=functions)


class _Worker(Worker):
    """An arq worker that goes on when the end of a job cannot be written to the queue: the job runs again later.

    arq writes it in a task that outlives a cancelled job. Nothing else takes an error of that task, and asyncio would
    log its traceback at ERROR.
    """

    async def finish_job(self, *args: Any) -> None:
        try:
            await super().finish_job(*args)
        except (RedisError, OSError) as error:
            _log_unnoted(error)

    async def finish_failed_job(self, *args: Any) -> None:
        try:
            await super().finish_failed_job(*args)
        except (RedisError, OSError) as error:
            _log_unnoted(error)


def _log_unnoted(error: Exception) -> None:
    logger.info("the end of a job was not written to the queue (%s): it runs again later", type(error).__name__)


def _worker(context: dict[str, Any], queue: ArqRedis, **settings: Any) -> Worker:
    """Return an arq worker that does one job at a time and keeps no results: they would block later jobs of that id."""
    return _Worker(
        redis_pool=queue,
        ctx=context,
        handle_signals=False,
        max_jobs=1,
        keep_result=0,
        log_results=False,
        job_serializer=encode_job,
        job_deserializer=msgspec.msgpack.decode,
        **settings,
    )
