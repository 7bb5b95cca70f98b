"""Access to the live view: which view to read, and how recent an answer must be for its caller."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

from commands.bounded_cache import BoundedCache, number_cache
from commands.cache_budget import DEFAULT_BUDGET, CacheBudget
from commands.errors import ViewBehind, ViewsUnavailable, ViewUnavailable
from projections.client.client import RedisClient
from projections.feeding.feeder_check import FeederCheck
from projections.keys import View, lease_group_of
from projections.signals.progress import Progress
from projections.views.pointer import read_live
from projections.views.server_watch import ServerWatch
from queries.copies import Copies
from queries.long_lists import LongLists
from queries.profile_cache import ProfileCache
from queries.reader_limits import ReaderLimits

# Limit of Retry-After while a view is built, and its value when it is not known how long that takes.
RETRY_MAX_S: Final = 60
RETRY_UNKNOWN_S: Final = 2


# A part of an answer: the partition that it was read from; the user whom it is about, or DIRECTORY; position and word
# of the checkpoint that it was read at; and whether it was cached since. Such a part may be below what the partition
# has reached, since workers report changes.
AnswerPart = tuple[int, int, int, bytes | None, bool]


def below(position: int, parts: Iterable[AnswerPart]) -> list[tuple[int, AnswerPart]]:
    """Return the parts that were read below a position, each after that position."""
    return [(position, part) for part in parts if part[2] < position]


class MinPosition:
    """What an answer must show: the log up to ``position``. ``strict``: rather no answer than an older one.

    A caller's own class says more: it is asked about each part of an answer, when that has come.
    """

    def __init__(self, position: int = 0, *, strict: bool = False) -> None:
        self.position, self.strict = position, strict

    def needed(self, number: int) -> int:
        """Return the position that a part about this user must be true for; DIRECTORY stands for all look-ups."""
        return self.position

    def unjudged(self, parts: Iterable[AnswerPart]) -> AnswerPart | None:
        """Return a part for which it is not known yet what it must show, if any. Raises ViewUnavailable when one is of
        another history of the log."""
        return None

    async def judge(self, part: AnswerPart) -> None:
        """Do what ``unjudged`` lacks for a part; ask that again afterwards. Raises Unavailable."""

    def below(self, parts: Iterable[AnswerPart]) -> list[tuple[int, AnswerPart]]:
        """Return the parts that were read below the position that is needed of them, each after that position."""
        return below(self.position, parts)

    @property
    def reports(self) -> bool:
        """Return whether the answer says at which position its parts were read."""
        return False

    def may_wait(self) -> None:
        """Raise an exception when the views must not be waited for now."""


# The number of a part without data of a user, such as a profile of a caller who has changed none.
NO_USER: Final = -1


_T = TypeVar("_T")
# Reads an answer with its parts from a view; returns None when a partition is missing.
Attempt = Callable[[View], Awaitable[tuple[_T, Sequence[AnswerPart]] | None]]
ANY_POSITION: Final = MinPosition()


class Reader:
    """The views as one process reads them, with its caches: the live view, numbers of ids and logins, profiles."""

    def __init__(
        self,
        redis: RedisClient,
        progress: Progress,
        on_switch: Callable[[], None] = lambda: None,
        *,
        watch: ServerWatch | None = None,
        feeder: FeederCheck | None = None,
        limits: ReaderLimits | None = None,
        profile_cache: ProfileCache | None = None,
        budget: CacheBudget = DEFAULT_BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read through ``redis``. ``progress`` ends waits early if it receives the workers' reports.

        ``on_switch`` is called when the new view may be of another log, for other caches of numbers.
        ``watch`` and ``feeder`` know why the live view cannot be trusted; the owner of ``watch`` starts it.
        """
        self.redis = redis
        self._watch, self._feeder = watch, feeder or FeederCheck(0)
        self.progress = progress
        self.limits = limits or ReaderLimits()
        self._budget = budget
        self.numbers_by_id, self.numbers_by_login = self._number_caches()
        self.profile_cache = profile_cache or ProfileCache(bytes_max=budget.share("profiles"))
        self.copies = Copies(budget.share("pages"))
        self._on_switch = on_switch
        # All partitions of the live view were here at the switch. One below it is half-built and answers nothing.
        self.since = 0
        self._clock = clock
        self._view: View | None = None
        self._generation = 0
        self._view_until = self._seen_at = 0.0
        # Returns the seconds until the next view is built, None when that is not known.
        self.build_left_s: Callable[[], float | None] = lambda: None
        self.long_lists = LongLists(clock, self.limits.long_lists, budget.share("sorted lists"))

    def _retry_after_s(self) -> int:
        """Return when a caller may find a view, in whole seconds."""
        left = self.build_left_s()
        return RETRY_UNKNOWN_S if left is None else max(1, min(RETRY_MAX_S, math.ceil(left)))

    @property
    def last_view(self) -> View | None:
        """The view that was live when this process read the pointer last, however long ago."""
        return self._view

    def cached_view(self) -> View | None:
        """Return the live view as of at most ``view_age_max_s`` ago; None if the pointer must be read."""
        return self._view if self._clock() < self._view_until and self._is_trusted() else None

    async def view(self, *, refresh: bool = False) -> View:
        """Return the live view as of at most ``view_age_max_s`` ago, or as of now if ``refresh``.

        Raises ViewUnavailable when no view is live, ViewsUnavailable when Redis does not answer, may have evicted keys
        of the view, or is fed by another database.
        """
        now = self._clock()
        if refresh or self._view is None or now >= self._view_until:
            await self._read_pointer(now, refresh=refresh)
        if self._feeder.problem is not None:
            raise ViewsUnavailable(self._feeder.problem)
        if not self._is_trusted():  # until the views have been built again
            raise ViewsUnavailable(retry_after_s=self._retry_after_s())
        if self._view is None:
            raise ViewUnavailable(self._retry_after_s())
        return self._view

    async def _read_pointer(self, now: float, *, refresh: bool) -> None:
        self._view_until = now + self.limits.view_age_max_s  # meanwhile, other requests use the view that is known
        may_time_out = not refresh and self._may_use_last_view(now)
        try:
            async with asyncio.timeout(self.limits.pointer_timeout_s if may_time_out else None):
                found, record = await read_live(self.redis)
        except (ViewsUnavailable, TimeoutError):
            if refresh or not self._may_use_last_view(now):
                self._view_until = 0.0
                raise ViewsUnavailable from None
            return
        self._view, self.since = (None, 0) if found is None else (found.view, found.since)
        self._seen_at = now
        self._feeder.on_record(record)
        self.progress.use(self._feeder.store)
        if found is not None:
            if self._watch is not None:
                self._watch.expect(found.evicted)
            before, self._generation = self._generation, found.view.generation
            if before == 0:
                self.progress.begin(self._generation)
            elif before != self._generation:
                self.progress.reset(self._generation, found.replaces)  # that of another one says nothing about this one
                self.copies.clear()
                if before != found.replaces:
                    self.invalidate_numbers()

    def _is_trusted(self) -> bool:
        return self._feeder.problem is None and (self._watch is None or self._watch.problem is None)

    def invalidate_numbers(self) -> None:
        """Replace the caches of numbers and drop lists and pages. A look-up under way writes into the replaced
        cache."""
        self.numbers_by_id, self.numbers_by_login = self._number_caches()
        self.long_lists.clear()
        self.copies.clear()
        self._on_switch()

    def _number_caches(self) -> tuple[BoundedCache[str, int], BoundedCache[str, int]]:
        return number_cache(self._budget.share("ids")), number_cache(self._budget.share("logins"))

    def _may_use_last_view(self, now: float) -> bool:
        """Return True while the last view may be used without the pointer: until the workers report another one."""
        reported = self.progress.generation
        is_recent = now - self._seen_at < self.limits.pointer_outage_max_s
        return self._view is not None and is_recent and reported in (0, self._view.generation)

    async def read(
        self,
        attempt: Attempt[_T],
        min_position: MinPosition = ANY_POSITION,
        is_enough: Callable[[_T], bool] = lambda _: False,
    ) -> _T:
        """Return what ``attempt`` reads from the live view, if each of its parts shows what the caller must see.

        Where a partition is missing, the next view may have it, after a switch. A partition below a position that it
        had reached before has lost writes, and is read again until a worker has repaired it. One that is below
        ``min_position`` is read again after a bounded wait, unless the result ``is_enough`` at any position.

        Raises ViewUnavailable for a missing partition, and ViewBehind after ``min_position_wait_s``: never an answer
        older than one that a caller may have seen. A caller that is not strict gets one below ``min_position``.
        """
        end = 0.0
        try:
            while True:
                found = await attempt(view := await self.view())
                if found is None:
                    found = await attempt(view := await self.view(refresh=True))
                if found is None:
                    raise ViewUnavailable
                result, parts = found
                while (part := min_position.unjudged(parts)) is not None:
                    await min_position.judge(part)
                lost = self._lost(view, parts)
                behind = None if lost is not None or is_enough(result) else self._behind(view, parts, min_position)
                if lost is None and behind is None:
                    return result
                end = end or self._clock() + self.limits.min_position_wait_s
                if (left := end - self._clock()) <= 0:
                    if lost is None and not min_position.strict:
                        return result
                    raise ViewBehind(lost or (behind or (0, 0))[0])
                await self._wait(behind, min_position, left)
        except ViewUnavailable:  # also one that ``judge`` has found
            raise ViewUnavailable(self._retry_after_s()) from None

    async def _wait(self, behind: tuple[int, int] | None, min_position: MinPosition, left: float) -> None:
        """Wait until a partition may be at a position, a bounded time; without ``behind``, for a repair."""
        if behind is not None:
            min_position.may_wait()
            position, partition = behind
            is_reached = await self.progress.wait(position, [lease_group_of(partition)], min(left, self.limits.poll_s))
            await self.view(refresh=True)
            if not is_reached:
                return
        await asyncio.sleep(self.limits.lost_writes_poll_s)

    def _lost(self, view: View, parts: Iterable[AnswerPart]) -> int | None:
        """Return the position that a partition of these had reached before and is below now, if any."""
        since, high_waters = self.since, self.progress.high_waters(view.generation)
        for partition, _, position, _, cached in parts:
            if not cached and (position < since or position < high_waters.get(partition, 0)):
                return max(since, high_waters.get(partition, 0))
        return None

    def checked(self, view: View, part: AnswerPart) -> AnswerPart:
        """Return a part that was read just now for an answer that takes longer, marked as cached if its partition has
        not lost writes. Later on that is not known: the partition goes on while the rest is read."""
        return part if self._lost(view, [part]) is not None else (*part[:4], True)

    def _behind(self, view: View, parts: Iterable[AnswerPart], min_position: MinPosition) -> tuple[int, int] | None:
        """Return (position, partition) of a part that does not show what it must, if any."""
        for needed, (partition, _, position, *_) in min_position.below(parts):
            if not self.progress.is_complete(view.generation, partition, position, needed):
                return needed, partition
        return None

    def shows(self, view: View, part: AnswerPart, min_position: MinPosition) -> bool:
        """Return whether a part that was read from ``view`` may be answered, without waiting for anything."""
        return self.shows_all(view, [part], min_position)

    def shows_all(self, view: View, parts: Sequence[AnswerPart], min_position: MinPosition) -> bool:
        """Return whether all of these parts may be answered, as ``shows``. Raises ViewUnavailable for a part of another
        history of the log."""
        return not (min_position.unjudged(parts) or self._lost(view, parts) or self._behind(view, parts, min_position))

    async def is_there(self, checkpoint: str) -> bool:
        """Return whether a partition is still there, after nothing was found in it."""
        return await self.redis.call("HGET", checkpoint, "position") is not None

    async def wait_for(self, position: int, partitions: Iterable[int]) -> View:
        """Wait at most ``min_position_wait_s`` for ``partitions`` to reach ``position``; return the view live then."""
        groups = {lease_group_of(partition) for partition in partitions}
        await self.progress.wait(position, groups, self.limits.min_position_wait_s)
        return await self.view(refresh=True)
