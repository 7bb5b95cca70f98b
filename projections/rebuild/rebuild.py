"""Rebuilding the views on request: next to the live ones, verified, switched in one atomic step; and back again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from commands.coordination.view_register import Generation, GenerationState, set_reason, set_state
from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.errors import RebuildRefused, ViewLost
from projections.feeding.feeders import require_feeder
from projections.keys import LEASE_GROUPS, PARTITIONS, View
from projections.projector.projector import REBUILD_BATCH, Projector
from projections.rebuild import build
from projections.rebuild.build import BuildLease
from projections.rebuild.pace import BuildProgress
from projections.rebuild.parallel import fill_by_processes
from projections.rebuild.switch import switch_readers
from projections.signals.job_queue import QueueSettings
from projections.signals.wakeups import Wakeup
from projections.verify.compare import count_differences
from projections.views import generations
from projections.views.building import build_position
from projections.views.feeder_record import registered

ShowProgress = Callable[[BuildProgress], None]


class RebuildOptions(msgspec.Struct, frozen=True):
    """How a rebuild is done, and why.

    ``rate`` limits the events per second, ``batch`` the events of one step. ``workers`` is the number of processes that
    fill. With ``verify`` the view is compared with the log before the switch. ``partitions`` is a multiple of
    LEASE_GROUPS, so that a user is in the same lease group in every view.
    """

    partitions: int = PARTITIONS
    rate: int | None = None
    workers: int = 1
    verify: bool = True
    reason: str = "asked for"
    batch: int = REBUILD_BATCH

    def __post_init__(self) -> None:
        if self.partitions % LEASE_GROUPS or self.partitions <= 0:
            raise RebuildRefused(
                f"the number of partitions must be a multiple of {LEASE_GROUPS}, not {self.partitions}"
            )


class Builder:
    """Rebuilds, goes back and prunes under the build lease; use ``async with``."""

    def __init__(
        self, engine: Engine, redis: RedisClient, queue: QueueSettings, lease: BuildLease | None = None
    ) -> None:
        self._engine, self._redis, self._queue = engine, redis, queue
        self._lease = lease or BuildLease(engine, redis)
        self._wakeup = Wakeup(queue)

    async def __aenter__(self) -> Builder:
        await self._queue.learn_names(self._engine)
        await require_feeder(self._engine, self._redis)
        await self._lease.__aenter__()
        return self

    async def __aexit__(self, *exit_: object) -> None:
        await self._lease.__aexit__(None, None, None)
        await self._wakeup.close()

    async def check_lease(self) -> None:
        """Raise Fenced when the build lease was lost meanwhile."""
        await self._lease.check()

    async def rebuild(self, options: RebuildOptions, show: ShowProgress) -> View:
        """Fill a new generation (or resume an unfinished one), verify it and switch readers; return the view.

        The generation before it is kept, older ones are deleted. Raises RebuildRefused when the new generation differs
        from the log. After any error readers still see the old view.
        """
        fence, partitions, reason = self._lease.fence, options.partitions, options.reason
        view = await build.start_or_resume(self._engine, self._redis, partitions, fence, reason)
        if options.workers > 1:
            await self._fill_by_processes(view, options, show)
        await self._fill(view, options, show)
        if options.verify:
            await self._verify(view)
        projector = await self._fill(view, options, show)
        await switch_readers(self._engine, self._redis, self._wakeup, projector)
        await self._delete((await self._unused("old"))[:-1])
        return view

    async def undo(self, show: ShowProgress) -> View:
        """Bring the newest old generation up to date and switch readers back to it; return the view.

        Raises RebuildRefused when there is none, or it lacks a partition.
        """
        candidates = await self._unused("old")
        if not candidates:
            raise RebuildRefused("there is no older generation to go back to")
        view = View(candidates[-1].number, candidates[-1].partitions)
        await generations.unretire(self._redis, view, self._lease.fence)
        try:
            projector = await self._fill(view, RebuildOptions(partitions=view.partitions), show)
        except ViewLost as error:
            raise RebuildRefused(f"it is not possible to go back: {error.message}") from error
        await switch_readers(self._engine, self._redis, self._wakeup, projector)
        return view

    async def prune(self) -> dict[int, int]:
        """Delete all generations that are not live, in small steps; return generation -> keys deleted."""
        removed = await self._delete(await self._unused("old", "building", "kept"))
        return {**removed, **await build.delete_unusable(self._engine, self._redis)}

    async def _verify(self, view: View) -> None:
        count = await count_differences(self._engine, self._redis, view, self.check_lease)
        if count:
            number, refusal = view.generation, f"differs from the log in {count} places"
            await set_reason(self._engine, number, f"refused, as it {refusal}")
            raise RebuildRefused(
                f"generation {number} {refusal}, so readers were not switched; `follows verify --generation {number}` "
                "shows where, `follows generations prune` removes it"
            )

    async def _unused(self, *states: GenerationState) -> list[Generation]:
        """Return the generations in these states that are not live, the one that has been so for longest first."""
        view = await build.correct_register(self._engine, self._redis)
        live = None if view is None else view.generation
        unused = [
            row for row in await registered(self._engine, self._redis) if row.number != live and row.state in states
        ]
        return sorted(unused, key=lambda row: row.changed)

    async def _delete(self, unwanted: list[Generation]) -> dict[int, int]:
        removed: dict[int, int] = {}
        for known in unwanted:
            await self.check_lease()
            removed[known.number] = await generations.delete(self._redis, View(known.number, known.partitions))
            await set_state(self._engine, known.number, "deleted")
        return removed

    async def _fill(self, view: View, options: RebuildOptions, show: ShowProgress) -> Projector:
        fences = dict.fromkeys(range(view.partitions), self._lease.fence)
        projector = Projector(self._engine, self._redis, view, fences)
        await projector.load()
        after_batch = self._after_batch(show)
        await build.fill(self._engine, self._redis, projector, after_batch, rate=options.rate, batch=options.batch)
        return projector

    async def _fill_by_processes(self, view: View, options: RebuildOptions, show: ShowProgress) -> None:
        async def show_lowest() -> None:
            lowest = await build_position(self._redis, view) or 0
            head = (await log.head(self._engine)).position
            await self._after_batch(show)(BuildProgress(view, lowest, lowest, head))

        if not await fill_by_processes(view, self._lease.fence, options.workers, options.rate, show_lowest):
            raise RebuildRefused("a filling process failed; the next rebuild resumes what it has filled")

    def _after_batch(self, show: ShowProgress) -> Callable[[BuildProgress], Awaitable[None]]:
        async def after_batch(progress: BuildProgress) -> None:
            show(progress)
            await self.check_lease()

        return after_batch


async def known_generations(engine: Engine, redis: RedisClient) -> list[tuple[Generation, int | None, bool]]:
    """Return each registered generation with its position, or how far it is built (None: it lacks partitions), and
    whether it is live."""
    live = await generations.live_view(redis)
    known: list[tuple[Generation, int | None, bool]] = []
    for generation in await registered(engine, redis):
        view = View(generation.number, generation.partitions)
        known.append((generation, await build_position(redis, view), view == live))
    return known
