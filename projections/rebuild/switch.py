"""Switching readers from one generation to another in one atomic step, without an error and without a step back.

A caller whose follow was visible must still see it in the new view. So the old view is frozen for the switch, as for a
repair: the new view is brought to the old one's position, the pointer moves, and the old partitions are retired. A
reader or worker that still uses the old view finds its partitions gone and reads the pointer again. If the process is
killed at any point, one view or the other is live and whole. If it was stopped until another process broke the
freeze, its step is refused at the pointer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, NamedTuple
from uuid import uuid4

from commands.coordination import leases
from commands.coordination.view_register import set_state
from commands.db.postgres import Engine
from commands.errors import Unavailable
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.errors import Fenced, NotSwitched, ViewLost
from projections.feeding.feeders import require_feeder
from projections.feeding.histories import strange_checkpoints
from projections.keys import LEASE_GROUPS, LogNames, View
from projections.projector.projector import Projector
from projections.signals.progress import changed_since, progress_message
from projections.signals.wakeups import Wakeup
from projections.views import generations
from projections.views.feeder_record import store_of
from projections.views.freezes import Freezes

logger: Final = logging.getLogger(__name__)

# A try must be over well before FREEZE_MAX_S.
SWITCH_TRY_S: Final = 1.0
SWITCH_TRIES_MAX: Final = 10


class _Replaced(NamedTuple):
    """The generation that a switch replaces, if it is of the same log, else 0, and the position that all of it had."""

    generation: int
    position: int


_NOTHING: Final = _Replaced(0, 0)


async def switch_readers(
    engine: Engine,
    redis: RedisClient,
    wakeup: Wakeup,
    projector: Projector,
    *,
    try_s: float = SWITCH_TRY_S,
    tries_max: int = SWITCH_TRIES_MAX,
) -> None:
    """Make the projector's view, which is nearly up to date, the live one, and announce it to readers and workers.

    Raises Fenced when another process has switched readers meanwhile, NotSwitched when it cannot be done now, and
    OtherFeeder.
    """
    await require_feeder(engine, redis)
    view, old = projector.view, await generations.live_view(redis)
    freezes = Freezes(engine, redis)
    try:
        replaced = _NOTHING
        if old is None or old == view:
            fence, end = await leases.next_fence(engine), projector.position
            await projector.check()
            if (
                old is None and projector.position < end
            ):  # Redis lost a partition's last writes, perhaps all that it had
                raise NotSwitched
            await _point(redis, projector, fence)
        else:
            for _ in range(tries_max):
                if (done := await _replace(engine, redis, freezes, old, projector, try_s)) is not None:
                    replaced = done
                    break
            else:
                raise NotSwitched
    finally:
        await projector.close()
    await set_state(engine, view.generation, "live")
    await _announce(engine, redis, wakeup, projector, replaced)
    logger.info("generation %d is live", view.generation)


async def _replace(
    engine: Engine,
    redis: RedisClient,
    freezes: Freezes,
    old: View,
    projector: Projector,
    try_s: float,
) -> _Replaced | None:
    """Switch while the old view is frozen. Return None, with nothing changed, if that takes longer than ``try_s``.

    The fence comes before the freeze: a process that breaks the freeze draws a higher one. So a try in which this
    process has broken another freeze would be refused, too, and is made again.
    """
    token, fence, broken = uuid4().hex, await leases.next_fence(engine), freezes.broken
    try:
        async with asyncio.timeout(try_s):
            frozen = await asyncio.gather(
                *[_freeze(freezes, old, partition, token) for partition in range(old.partitions)]
            )
            if freezes.broken != broken:
                return None
            head = (await log.head(engine)).position  # a view of another log may be beyond its end
            end = min(max(frozen), head)
            await projector.write_checkpoints()
            while projector.position < end:  # also when Redis lost a partition's last writes meanwhile
                await projector.step()
                await projector.write_checkpoints()
            await projector.check()  # if this process was stopped, another build may have deleted the view meanwhile
            if projector.position < end:  # Redis lost a partition's last writes
                return None
            is_same_log = not await strange_checkpoints(engine, redis, old)
        replaced = _Replaced(old.generation, min(frozen)) if is_same_log else _NOTHING
        await _point(redis, projector, fence, old, replaced)
        await generations.retire(redis, old, fence)
    except TimeoutError:
        return None
    finally:  # retired partitions ignore it
        await asyncio.gather(*[freezes.unfreeze(old, partition, token) for partition in range(old.partitions)])
    return replaced


async def _point(
    redis: RedisClient, projector: Projector, fence: int, old: View | None = None, replaced: _Replaced = _NOTHING
) -> None:
    """Move the pointer, with ``old`` only from there: a worker may have taken it away. Raises Fenced."""
    evicted = await generations.evicted_at_begin(redis, projector.view)
    view, since = projector.view, projector.position
    if not await generations.switch(redis, view, fence, since, evicted, old, replaced.generation):
        raise Fenced("the live pointer")


async def _freeze(freezes: Freezes, view: View, partition: int, token: str) -> int:
    """Freeze one partition; return its position, 0 for a lost one, which has no readers."""
    try:
        return (await freezes.freeze(view, partition, token)).position
    except ViewLost:
        return 0


async def _announce(
    engine: Engine, redis: RedisClient, wakeup: Wakeup, projector: Projector, replaced: _Replaced
) -> None:
    """Publish the new view's progress and wake the workers. If that fails, they find the new pointer within a second.

    Readers keep the profiles that they have read from a view of the same log, but for those that have changed since.
    """
    changed = None
    try:
        await projector.check()  # if this process was stopped since its last step, Redis may have lost writes
        store = await store_of(redis)
        if replaced.generation:
            changed = await changed_since(engine, replaced.position, projector.position)
    except (Fenced, ViewLost, Unavailable) as error:
        logger.info("generation %d is not announced: %s", projector.view.generation, error)
        return
    position, groups, generation = projector.position, range(LEASE_GROUPS), projector.view.generation
    word, before, run = projector.history.word(position), replaced.generation, projector.batches.run
    message = progress_message(position, groups, generation, changed, None, store, before, word, run)
    await wakeup.publish(LogNames.applied_channel, [message])
    wakeup.send(position)
