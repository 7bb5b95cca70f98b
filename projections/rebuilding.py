"""Rebuilding the views on request: beside the live ones, verified, switched in one atomic step, and back again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from commands import log
from commands.errors import FollowsError
from commands.generations import Generation, State, mark, note, registered
from commands.postgres import Engine
from projections import building, generations
from projections.building import BuildLease, Progress
from projections.catch_up import Projector, ViewLost
from projections.filling import fill_by_processes
from projections.handing_over import hand_over
from projections.keys import GROUPS, LANES, View
from projections.store import Store
from projections.switching import switch
from projections.verifying import differences
from projections.wakeup import QueueSettings

Show = Callable[[Progress], None]


class RebuildRefused(FollowsError):
    """The rebuild cannot be done, or must not be finished; readers see what they saw before."""


class Order(msgspec.Struct, frozen=True):
    """What to build: into how many lanes, at most how many events a second, by how many processes, whether to compare
    it with the log before readers see it, and why.

    The lanes are a multiple of GROUPS, so that a user's group is the same in every view.
    """

    lanes: int = LANES
    rate: int | None = None
    workers: int = 1
    verify: bool = True
    reason: str = "asked for"

    def __post_init__(self) -> None:
        if self.lanes % GROUPS or self.lanes <= 0:
            raise RebuildRefused(f"the number of lanes must be a multiple of {GROUPS}, not {self.lanes}")


class Builder:
    """Does what needs the right to build, of which there is one; use ``async with``."""

    def __init__(self, engine: Engine, store: Store, queue: QueueSettings) -> None:
        self._engine, self._store, self._queue = engine, store, queue
        self._lease = BuildLease(engine)

    async def __aenter__(self) -> Builder:
        await self._lease.__aenter__()
        return self

    async def __aexit__(self, *exit_: object) -> None:
        await self._lease.__aexit__(None, None, None)

    async def held(self) -> None:
        """Raises Fenced when the right to build was lost meanwhile."""
        await self._lease.held()

    async def rebuild(self, order: Order, show: Show) -> View:
        """Fill a new generation (or go on with an unfinished one), verify it, switch; give it.

        Raises RebuildRefused when it differs from the log; readers go on seeing the old view then, as with any error.
        The view before this one is kept, those before it are removed.
        """
        fence, epoch = self._lease.fence, (await log.head(self._engine)).epoch
        view = await building.start_or_resume(self._engine, self._store, order.lanes, fence, epoch, order.reason)
        if order.workers > 1:
            await self._fill_by_processes(view, order, show)
        await self._fill(view, order, show)
        if order.verify:
            await self._verify(view)
        await self._switch(await self._fill(view, order, show))
        await self._drop((await self._old("old"))[:-1])
        return view

    async def _verify(self, view: View) -> None:
        count = await differences(self._engine, self._store, view, self.held)
        if count:
            number, refusal = view.generation, f"differs from the log in {count} places"
            await note(self._engine, number, f"refused, as it {refusal}")
            raise RebuildRefused(
                f"generation {number} {refusal}, so readers were not switched; `follows verify --generation {number}` "
                "shows where, `follows generations prune` removes it"
            )

    async def undo(self, show: Show) -> View:
        """Bring the newest old generation up to the log and make readers see it again; give it."""
        candidates = await self._old("old")
        if not candidates:
            raise RebuildRefused("there is no older generation to go back to")
        view = View(candidates[-1].number, candidates[-1].lanes)
        await generations.revive(self._store, view, self._lease.fence)
        try:
            projector = await self._fill(view, Order(lanes=view.lanes), show)
        except ViewLost as error:
            raise RebuildRefused(f"it is not possible to go back: {error.message}") from error
        await self._switch(projector)
        return view

    async def prune(self) -> dict[int, int]:
        """Remove the generations that nobody sees, in small steps; give generation -> keys removed."""
        removed = await self._drop(await self._old("old", "building"))
        return {**removed, **await building.drop_rubbish(self._engine, self._store)}

    async def _old(self, *states: State) -> list[Generation]:
        """Those in these states that nobody sees, first who has been so for longest."""
        live = await building.settle_register(self._engine, self._store)
        seen = None if live is None else live.generation
        known = [row for row in await registered(self._engine) if row.number != seen and row.state in states]
        return sorted(known, key=lambda row: row.changed_at)

    async def _drop(self, unwanted: list[Generation]) -> dict[int, int]:
        removed: dict[int, int] = {}
        for known in unwanted:
            await self.held()
            removed[known.number] = await generations.drop(self._store, View(known.number, known.lanes))
            await mark(self._engine, known.number, "dropped")
        return removed

    async def _fill(self, view: View, order: Order, show: Show) -> Projector:
        epoch = (await log.head(self._engine)).epoch
        fences = dict.fromkeys(range(view.lanes), self._lease.fence)
        projector = Projector(self._engine, self._store, view, fences, epoch)
        await projector.load()
        await building.fill(self._engine, self._store, projector, self._shown(show), rate=order.rate)
        return projector

    async def _fill_by_processes(self, view: View, order: Order, show: Show) -> None:
        async def look() -> None:
            found = await generations.checkpoints(self._store, view, range(view.lanes))
            lowest = min(checkpoint.position if checkpoint else 0 for checkpoint in found.values())
            await self._shown(show)(Progress(view, lowest, lowest, (await log.head(self._engine)).position))

        if not await fill_by_processes(view, self._lease.fence, order.workers, order.rate, look):
            raise RebuildRefused("a filling process failed; what it has done is kept for the next try")

    def _shown(self, show: Show) -> Callable[[Progress], Awaitable[None]]:
        async def between(progress: Progress) -> None:
            show(progress)
            await self.held()

        return between

    async def _switch(self, projector: Projector) -> None:
        await switch(self._engine, self._store, projector)
        try:
            await hand_over(self._engine, self._queue, projector)
        finally:
            await projector.close()


async def known_generations(engine: Engine, store: Store) -> list[tuple[Generation, int | None, bool]]:
    """Give each registered generation with the position it stands at (None: its lanes are gone) and if it is seen."""
    live = await generations.live_view(store)
    known: list[tuple[Generation, int | None, bool]] = []
    for generation in await registered(engine):
        view = View(generation.number, generation.lanes)
        known.append((generation, await generations.stands_at(store, view), view == live))
    return known
