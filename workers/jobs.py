"""The jobs: nudges without payload that say "drain", "sweep", "erase". The log is the truth; a lost job costs a second.

The drain stays awake and listens, since arq looks at its queue only twice a second. So that arq's bookkeeping of a
running job never gets old, a drain's turn is short; before it ends, the sweep enqueues the next, which waits at the
door and goes on without a gap.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import wraps
from typing import Any, Final, cast

import msgspec
from arq.typing import WorkerCoroutine

from commands import answers, directory, erasure
from commands.errors import Unavailable
from commands.postgres import Engine
from projections.drain import Drain
from projections.evictions import mend_evictions
from projections.wakeup import Wakeup

logger: Final = logging.getLogger(__name__)

# A killed worker's drain is marked as running for twice this long; nobody needs that mark, but it should not pile up.
DRAIN_S: Final = 60.0
# The next turn is asked for this long before the end, time enough for arq to pick it up.
RELAY_S: Final = 5.0
# So often a worker sees that a drain of its own is awake.
KEEP_S: Final = 0.2
# So often a worker looks whether Redis has dropped keys.
MEND_S: Final = 1.0
ERASE_S: Final = 30.0
HOUSEKEEPING_S: Final = 60.0


def quietly(job: WorkerCoroutine) -> WorkerCoroutine:
    """A job that says in one line when Postgres or Redis was away; what it left undone, the next sweep finds."""

    @wraps(job)
    async def told(ctx: dict[str, Any], *arguments: Any) -> None:
        try:
            await job(ctx, *arguments)
        except Unavailable as error:
            logger.warning("a job was cut off: %s", error)

    return cast(WorkerCoroutine, told)


class Turn(msgspec.Struct):
    """Whose turn it is to drain in this worker."""

    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    waiting: bool = False
    ends_at: float = 0.0
    count: int = 0

    def wants_another(self) -> bool:
        """Whether a drain must be enqueued: none is awake, or it ends soon and none waits for its turn."""
        return not self.waiting and (not self.lock.locked() or time.monotonic() > self.ends_at - RELAY_S)


async def drain(ctx: dict[str, Any]) -> None:
    """Keep this worker's lanes level with the log for one turn."""
    turn: Turn = ctx["turn"]
    if not turn.wants_another():
        return  # a nudge for a drain that is awake
    turn.waiting = True
    try:
        await turn.lock.acquire()
    finally:
        turn.waiting = False  # also when it was cut off at the door
    try:
        turn.ends_at = time.monotonic() + DRAIN_S
        awake: Drain = ctx["drain"]
        await awake.run(DRAIN_S)
    finally:
        turn.lock.release()


async def keep_awake(ctx: dict[str, Any]) -> None:
    """This worker's own drain, turn after turn.

    arq gives a job to whichever worker asks first. Two workers that look at the queue one shortly after the other do so
    for ever, and one of them gets all the jobs; so what is meant for this very worker must not go through the queue.
    """
    while True:
        try:
            await drain(ctx)
        except Exception:
            logger.exception("the drain ended; it is started again")
        await asyncio.sleep(KEEP_S)


async def keep_whole(ctx: dict[str, Any]) -> None:
    """Each second: see to it that views of which Redis has dropped keys are built anew. No job, as a Redis that is full
    may take none."""
    while True:
        try:
            await mend_evictions(ctx["engine"], ctx["store"])
        except Unavailable:
            pass  # what is away is looked at when it is back
        except Exception:
            logger.exception("what Redis has dropped could not be mended; it is tried again")
        await asyncio.sleep(MEND_S)


async def sweep(ctx: dict[str, Any]) -> None:
    """Each second: see that a drain is awake here, and that every unfinished erasure has its job."""
    turn: Turn = ctx["turn"]
    if turn.wants_another():
        turn.count += 1
        await ctx["redis"].enqueue_job("drain", _job_id=f"drain:{ctx['worker']}:{turn.count}")
    engine: Engine = ctx["engine"]
    for number in await erasure.unfinished(engine):
        await ctx["redis"].enqueue_job("erase", number, _job_id=f"erase:{number}")
    if time.monotonic() > ctx["housekeeping_at"]:
        ctx["housekeeping_at"] = time.monotonic() + HOUSEKEEPING_S
        await answers.forget_old(engine)
        await directory.forget_released_logins(engine)


async def erase(ctx: dict[str, Any], number: int) -> None:
    """End the follows of an erased user, batch by batch; a sweep goes on with what this leaves."""
    ends_at = time.monotonic() + ERASE_S
    wakeup: Wakeup = ctx["wakeup"]
    finished = False
    while not finished and time.monotonic() < ends_at:
        position, finished = await erasure.end_some_follows(ctx["engine"], number)
        if position is not None:
            wakeup.send(position)
    if finished:
        logger.info("the follows of erased user %d have ended", number)
