"""Moving readers from one generation to another, in one atomic step, so that nobody notices.

The hard part is the promise that who was told of his follow sees it. So at the switch the old view stands still: its
lanes are held, as for a repair, the new view is brought to where they stand, readers are moved, and the old lanes are
retired. Who still reads the old view, because he looked at the pointer a moment ago, finds its lanes gone and looks
again; the workers likewise. Killed at any point, it leaves one view or the other, and holds that run out by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final
from uuid import uuid4

from commands import leases, log
from commands.errors import Unavailable
from commands.generations import mark
from commands.postgres import Engine
from projections import generations
from projections.catch_up import Fenced, Projector
from projections.keys import View
from projections.store import Store, load_script

logger: Final = logging.getLogger(__name__)

HOLD: Final = load_script("projections", "hold.lua", reads=False)
# The old lanes are held for so long; all must be done well before that.
HOLD_MS: Final = 2_000
DONE_S: Final = 1.0
TRIES_MAX: Final = 10
# Somebody mends a lane, which takes milliseconds.
TRY_AGAIN_S: Final = 0.02


class NotSwitched(Unavailable):
    """The live view could not be held for long enough; readers go on seeing it."""


async def switch(engine: Engine, store: Store, projector: Projector) -> None:
    """Make readers see the projector's view, which is nearly level with the log.

    Raises Fenced when somebody else has decided meanwhile what readers see, NotSwitched when it cannot be done now.
    """
    view, old = projector.view, await generations.live_view(store)
    fence = await leases.next_fence(engine)
    if old is None or old == view:
        await _point(store, projector, fence)
    else:
        for _ in range(TRIES_MAX):
            if await _replace(engine, store, old, projector, fence):
                break
        else:
            raise NotSwitched("the new view did not come level with the live one in time; try again")
    await mark(engine, view.generation, "live")
    logger.info("generation %d is live", view.generation)


async def _replace(engine: Engine, store: Store, old: View, projector: Projector, fence: int) -> bool:
    """Switch while the old view stands still; False, and nothing has happened, when that would take too long."""
    token = uuid4().hex
    try:
        async with asyncio.timeout(DONE_S):
            held = await asyncio.gather(*[_hold(store, old, lane, token) for lane in range(old.lanes)])
            head = (await log.head(engine)).position  # what was made from another log may stand beyond it
            end = min(max(held), head)
            await projector.settle()
            while projector.position < end:  # also when Redis lost a lane's tail meanwhile
                await projector.step()
                await projector.settle()
        await _point(store, projector, fence)
        await generations.retire(store, old, fence)
    except TimeoutError:
        return False
    finally:  # of retired lanes there is nothing left to let go
        await asyncio.gather(*[store.run(HOLD, [old.checkpoint(lane)], [token, 0]) for lane in range(old.lanes)])
    return True


async def _point(store: Store, projector: Projector, fence: int) -> None:
    if not await generations.switch(store, projector.view, fence, projector.position):
        raise Fenced("somebody else has decided meanwhile what readers see")


async def _hold(store: Store, view: View, lane: int, token: str) -> int:
    """Keep one lane where it stands; give its position, 0 for a lost one, which nobody reads."""
    while True:
        held = await store.run(HOLD, [view.checkpoint(lane)], [token, HOLD_MS])
        if held is None or held[0] == 1:
            return int(held[1]) if held else 0
        await asyncio.sleep(TRY_AGAIN_S)
