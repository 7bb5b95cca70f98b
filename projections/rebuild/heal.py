"""Healing: rebuilding the live view after it was lost, and at the first start, when there is none."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from redis.exceptions import RedisError

from commands.coordination.view_register import list_generations, set_state
from commands.db.postgres import Engine
from commands.errors import Unavailable
from projections.client.client import RedisClient
from projections.errors import BatchRefused, BuildRunning, Fenced, OtherFeeder, ViewLost
from projections.keys import PARTITIONS, View
from projections.outages import ChangedLine
from projections.projector.projector import REBUILD_BATCH, Projector
from projections.projector.read_words import ReadWords
from projections.rebuild.build import (
    BuildLease,
    delete_unusable,
    fill,
    start_or_resume,
)
from projections.rebuild.evictions import invalidate_evicted, wait_for_policy
from projections.rebuild.pace import BuildProgress
from projections.rebuild.switch import switch_readers
from projections.signals.wakeups import Wakeup
from projections.views import generations
from projections.views.feeder_record import registered

logger: Final = logging.getLogger(__name__)


class Healer:
    """Heals the view in the background of a worker, one build at a time."""

    def __init__(self, engine: Engine, redis: RedisClient, wakeup: Wakeup, read_words: ReadWords | None = None) -> None:
        """``read_words`` gets the words of what builds read."""
        self._engine, self._redis, self._wakeup, self._read_words = engine, redis, wakeup, read_words
        self._task: asyncio.Task[bool] | None = None
        # How builds of this worker have ended: "done", "stopped" by an outage, or "failed".
        self.ended: Counter[str] = Counter()
        self._line = ChangedLine(logger)

    @property
    def is_running(self) -> bool:
        """Return whether a build of this worker is under way."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start to heal, unless that is under way."""
        if not self.is_running:
            self._task = asyncio.create_task(self._run())

    def note_whole(self) -> None:
        """Note that the view is whole, whoever has built it: the next failure is another one and gets a line."""
        self._line.reset()

    async def wait(self, timeout_s: float) -> bool:
        """Return when the build under way has ended, or after ``timeout_s``; False if it was refused or has failed."""
        if self._task is None:
            return True
        await asyncio.wait({self._task}, timeout=timeout_s)
        return not self._task.done() or self._task.result()

    async def close(self) -> None:
        """Cancel the build under way; another worker, or the next start, resumes it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> bool:
        """Heal unless another process builds, or has just done it; return whether the view is whole.

        Failures are logged: the loop starts it again.
        """
        try:
            async with BuildLease(self._engine, self._redis, wait_s=0) as lease:
                if not await self._is_whole():
                    await heal(
                        self._engine,
                        self._redis,
                        self._wakeup,
                        lease.fence,
                        lease.check,
                        read_words=self._read_words,
                    )
                    self.ended["done"] += 1
            return True
        except BuildRunning:
            self._line.info("another process is building the view")
        except (Unavailable, BatchRefused, ViewLost, Fenced, OtherFeeder, RedisError, OSError) as error:
            self.ended["stopped"] += 1
            self._line.warning("the build ended: %s", error)
        except Exception:  # no caller waits for this task
            self.ended["failed"] += 1
            logger.exception("the build failed")
        return False

    async def _is_whole(self) -> bool:
        view = await generations.live_view(self._redis)
        if view is None:
            return False
        return None not in (await generations.checkpoints(self._redis, view, range(view.partitions))).values()


async def heal(
    engine: Engine,
    redis: RedisClient,
    wakeup: Wakeup,
    fence: int,
    check_lease: Callable[[], Awaitable[None]],
    *,
    batch: int = REBUILD_BATCH,
    read_words: ReadWords | None = None,
) -> View:
    """Build a new view in place of the lost one, switch readers, delete what is left of the lost one; return the view.

    ``check_lease`` is called between batches and raises when the build lease is lost.
    """

    async def after_batch(_: BuildProgress) -> None:
        await check_lease()

    if read_words is not None:
        lost_after = await read_words.lost_after(engine)
        if lost_after is not None:
            read_words.forget(lost_after)  # a new view begins with the log as it is
    await wait_for_policy(redis, check_lease)
    await invalidate_evicted(engine, redis)
    lost = await generations.live_view(redis)
    await _make_room(engine, redis, lost)
    reason = "the live view was lost or there was none"
    view = await start_or_resume(engine, redis, await _usual_partitions(engine), fence, reason)
    projector = Projector(engine, redis, view, dict.fromkeys(range(view.partitions), fence), read_words=read_words)
    await projector.load()
    await fill(engine, redis, projector, after_batch, batch=batch)
    await switch_readers(engine, redis, wakeup, projector)
    kept = [row.number for row in await registered(engine, redis) if row.state == "kept"]
    if lost is not None and lost != view and lost.generation not in kept:
        await generations.delete(redis, lost)
        await set_state(engine, lost.generation, "deleted")
    await delete_unusable(engine, redis)
    return view


async def _make_room(engine: Engine, redis: RedisClient, live: View | None) -> None:
    """Delete the views of which no partition has a position: a full server may have no room for another view.

    While any partition of the live view can be read, this is left for later: its readers would wait for it.
    """
    if live is None or await generations.has_no_position(redis, live):
        for row in await registered(engine, redis):
            view = View(row.number, row.partitions)
            if row.state != "kept" and await generations.has_no_position(redis, view):
                await generations.delete(redis, view)


async def _usual_partitions(engine: Engine) -> int:
    """Return the number of partitions of the last live view, which an operator may have chosen, also of another Redis:
    this one may have been emptied."""
    live = [known.partitions for known in await list_generations(engine) if known.state in ("live", "kept")]
    return live[-1] if live else PARTITIONS
