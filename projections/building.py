"""Building a view from nothing: fill a new generation beside whatever there is, and switch when it has caught up.

Until the switch nobody sees it. A build that dies leaves a generation that the register knows as ``building``: the next
build of the same shape goes on with it from its own checkpoints. Whoever builds holds the one lease for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final
from uuid import UUID, uuid4

import msgspec

from commands import leases, log
from commands.errors import FollowsError, LogUnavailable
from commands.generations import begin_generation, mark, note, registered
from commands.postgres import Engine
from projections import generations
from projections.catch_up import REBUILD_BATCH, Fenced, Projector, is_of
from projections.keys import LANES, View
from projections.standing_back import StandingBack
from projections.store import Store
from projections.switching import switch

logger: Final = logging.getLogger(__name__)

RENEW_S: Final = leases.LEASE_S / 3
# A killed build's lease ends within LEASE_S, and a worker that has just healed the view lets go at once: so long it is
# worth waiting for the right to build, looking so often.
PATIENCE_S: Final = leases.LEASE_S + 0.5
LOOK_S: Final = 0.1
# So often the lanes that nothing touches are written down: who resumes goes on from the hindmost.
SETTLE_S: Final = 1.0


class BuildRunning(FollowsError):
    """Somebody else builds now, and there is one build at a time."""


class BuildLease:
    """The right to build, renewed in the background; use ``async with``.

    Somebody else's is waited for up to ``patience_s``, no more: whoever still has it then is alive and renews it.
    """

    def __init__(self, engine: Engine, patience_s: float = PATIENCE_S) -> None:
        self._engine, self._owner, self._patience_s = engine, uuid4(), patience_s
        self._renewing: asyncio.Task[None] | None = None
        self.fence = 0

    async def __aenter__(self) -> BuildLease:
        until = time.monotonic() + self._patience_s
        while (fence := await leases.take(self._engine, leases.BUILD, self._owner)) is None:
            if time.monotonic() >= until:
                raise BuildRunning("another rebuild is running: `follows generations` shows it")
            await asyncio.sleep(LOOK_S)
        self.fence = fence
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, trace: TracebackType | None) -> None:
        giving_back = asyncio.create_task(self._give_back())
        try:
            await asyncio.shield(giving_back)
        except asyncio.CancelledError:  # who is told to end only now must not leave others waiting for the lease's end
            await giving_back
            raise

    async def held(self) -> None:
        """Raises Fenced when the lease was lost; cheap, to be called between the steps of the work."""
        assert self._renewing is not None
        if self._renewing.done():
            raise Fenced("the right to build was lost; a build can be started again and goes on where it was")
        await asyncio.sleep(0)

    async def _give_back(self) -> None:
        assert self._renewing is not None
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        await leases.release(self._engine, self._owner)

    async def _renew(self) -> None:
        """Ends when the lease is another's. An outage of Postgres is no loss yet: it may be ours when it is back."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                if await leases.take(self._engine, leases.BUILD, self._owner) != self.fence:
                    return
            except LogUnavailable as error:
                logger.warning("the right to build could not be renewed: %s", error)


class Progress(msgspec.Struct, frozen=True):
    """How far a build is: events projected by this run, its position, and the log's end when last looked at."""

    view: View
    events: int
    position: int
    head: int


async def start_or_resume(engine: Engine, store: Store, lanes: int, fence: int, epoch: UUID, reason: str) -> View:
    """Give the unfinished generation of this shape, if it can be gone on with, else a new one, prepared."""
    await settle_register(engine, store)
    for known in reversed(await registered(engine)):
        if known.state != "building":
            continue
        view = View(known.number, known.lanes)
        found = await generations.checkpoints(store, view, range(view.lanes))
        if known.lanes == lanes and await is_of(engine, found, str(epoch)):
            logger.info("going on with generation %d", view.generation)
            await note(engine, view.generation, reason)
            return view
        await generations.drop(store, view)
        await mark(engine, view.generation, "dropped")
    highest = await generations.highest(store)
    view = View(await begin_generation(engine, lanes, reason, above=highest), lanes)
    await generations.prepare(store, view, epoch, fence)
    logger.info("building generation %d", view.generation)
    return view


async def settle_register(engine: Engine, store: Store) -> View | None:
    """Let the register know which generation readers see, should a build have died between the two; give that."""
    live = await generations.live_view(store)
    known = {row.number: row.state for row in await registered(engine)}
    if live is not None and known.get(live.generation, "live") != "live":
        await mark(engine, live.generation, "live")
    return live


async def fill(
    engine: Engine,
    store: Store,
    projector: Projector,
    between: Callable[[Progress], Awaitable[None]],
    *,
    rate: int | None = None,
    batch: int = REBUILD_BATCH,
) -> None:
    """Bring a generation up to the log's end, at most ``rate`` events a second, standing back for live readers.

    ``between`` is called after each batch; it shows progress, and raises to stop.
    """
    standing_back = StandingBack(engine, store)
    started, events, head = time.monotonic(), 0, (await log.head(engine)).position
    settled = started
    try:
        level = False
        while not level:
            while count := await projector.step(batch if rate is None else min(batch, rate)):
                events += count
                if projector.position > head:
                    head = (await log.head(engine)).position
                progress = Progress(projector.view, events, projector.position, head)
                await between(progress)
                if time.monotonic() - settled > SETTLE_S:
                    settled = time.monotonic()
                    await projector.settle()
                if rate is not None:
                    await asyncio.sleep(max(0.0, started + events / rate - time.monotonic()))
                while await standing_back.must_wait():
                    await between(progress)
            end = projector.position
            await projector.settle()
            level = projector.position >= end  # else Redis lost a lane's tail meanwhile
    finally:
        await projector.close()


async def heal(
    engine: Engine, store: Store, fence: int, epoch: UUID, still_ours: Callable[[], Awaitable[None]]
) -> View:
    """Build a view because the live one is lost, switch, and remove what was lost; give the new one.

    ``still_ours`` is called between batches and raises when the right to build is lost.
    """

    async def between(_: Progress) -> None:
        await still_ours()

    lost = await generations.live_view(store)
    await _make_room(engine, store, lost)
    reason = "the live view was lost or there was none"
    view = await start_or_resume(engine, store, await _usual_lanes(engine), fence, epoch, reason)
    projector = Projector(engine, store, view, dict.fromkeys(range(view.lanes), fence), epoch)
    await projector.load()
    await fill(engine, store, projector, between)
    await switch(engine, store, projector)
    if lost is not None and lost != view:
        await generations.drop(store, lost)
        await mark(engine, lost.generation, "dropped")
    await drop_rubbish(engine, store)
    return view


async def _make_room(engine: Engine, store: Store, live: View | None) -> None:
    """Remove what is left of the views that have no position at all, since a full server may have no room for another;
    not while any lane of the live one can be read, which would have to wait for that."""
    if live is None or await generations.is_nowhere(store, live):
        for view in [View(row.number, row.lanes) for row in await registered(engine)]:
            if await generations.is_nowhere(store, view):
                await generations.drop(store, view)


async def drop_rubbish(engine: Engine, store: Store) -> dict[int, int]:
    """Remove the old generations to which nobody can go back, because lanes of them are gone or the register does not
    know them: it was restored to an older state, or is another. Give generation -> keys removed."""
    removed: dict[int, int] = {}
    live, register = await generations.live_view(store), await registered(engine)
    known = {row.number for row in register} | ({live.generation} if live else set())
    for view in await generations.found(store):
        if view.generation not in known:
            removed[view.generation] = await generations.drop(store, view)
    for row in register:
        view = View(row.number, row.lanes)
        if row.state == "old" and await generations.stands_at(store, view) is None:
            removed[row.number] = await generations.drop(store, view)
            await mark(engine, row.number, "dropped")
    return removed


async def _usual_lanes(engine: Engine) -> int:
    """As many as the live view had, since somebody may have chosen that."""
    live = [known.lanes for known in await registered(engine) if known.state == "live"]
    return live[-1] if live else LANES
