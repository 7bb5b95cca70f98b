"""How a query reaches the view that readers are to see, at a moment that is fresh enough for its caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import msgspec

from commands.errors import StoreUnavailable, ViewBehind, ViewUnavailable
from projections.generations import live
from projections.keys import View, group_of
from projections.store import Store
from projections.wakeup import Progress
from queries.cards import Cards

# How long a process may go on with the view it knows after a switch; the old one stays whole for longer than that.
VIEW_AGE_S: Final = 0.25
# In a cluster the pointer's server may be away while the others are there. Each process then goes on with the view it
# knows, which is safe, since a switch takes the old view's lanes from readers: a read of them gives None, and never an
# old answer. Not for ever, as a lane could escape that only if its own server was away at the switch.
POINTER_S: Final = 0.05
POINTER_AWAY_S: Final = 30.0
# A reader who must see his own write waits this long for it.
WAIT_S: Final = 1.0
# A lane that has lost writes is looked at so often; a worker notices within a second, and mends it in milliseconds.
AGAIN_S: Final = 0.02


class Freshness(msgspec.Struct, frozen=True):
    """The log position that an answer must hold; ``strict`` when being behind is worse than no answer."""

    position: int = 0
    strict: bool = False


class Placed(Protocol):
    """What a read gives: at least the log position it is true for."""

    @property
    def position(self) -> int: ...


P = TypeVar("P", bound=Placed)
ANYTIME: Final = Freshness()


class Reader:
    """The views as this process reads them; remembers which generation is live and which number an id has."""

    def __init__(self, store: Store, progress: Progress) -> None:
        """``progress`` is kept by whoever listens to the workers; without it, waiting just takes its full time."""
        self.store = store
        self.progress = progress
        self.numbers: dict[str, int] = {}
        self.logins: dict[str, int] = {}
        self.cards = Cards()
        progress.watcher = self.cards
        progress.switched = self._switched
        # Who else remembers numbers, and must not beyond a switch: the log may be another, with other numbers.
        self.forget_numbers: Callable[[], None] = lambda: None
        # A lane of the view that stands before this position is half-built, and answers nothing.
        self.since = 0
        self._view: View | None = None
        self._generation = 0
        self._view_until = 0.0
        self._seen_at = 0.0

    @property
    def last_view(self) -> View | None:
        """The view that was the live one when this process last looked, however long ago."""
        return self._view

    def view_at_hand(self) -> View | None:
        """The live view as it was at most VIEW_AGE_S ago, if this process has looked since."""
        return self._view if time.monotonic() < self._view_until else None

    async def view(self, *, again: bool = False) -> View:
        """The live view, as it was at most VIEW_AGE_S ago, or now if ``again``; raises ViewUnavailable."""
        now = time.monotonic()
        if again or self._view is None or now >= self._view_until:
            self._view_until = now + VIEW_AGE_S  # while one asks, the others go on with what is known
            try:
                async with asyncio.timeout(None if again or not self._may_go_on(now) else POINTER_S):
                    found = await live(self.store)
                self._view, self.since = (None, 0) if found is None else (found.view, found.since)
                self._seen_at = now
                if found is not None:
                    before, self._generation = self._generation, found.view.generation
                    if before not in (0, self._generation):
                        self.progress.begin(self._generation)  # what was heard of another says nothing of this one
                        self._switched()
            except (StoreUnavailable, TimeoutError):
                if again or not self._may_go_on(now):
                    self._view_until = 0.0
                    raise StoreUnavailable from None
        if self._view is None:
            raise ViewUnavailable
        return self._view

    def _switched(self) -> None:
        """Forget the numbers of ids and logins; who is asking for one just now keeps it in what is forgotten."""
        self.numbers, self.logins = {}, {}
        self.forget_numbers()

    def _may_go_on(self, now: float) -> bool:
        """Whether the view that was seen last will do while nobody says which one it is; not if the workers already
        tell of another."""
        told = self.progress.generation
        return self._view is not None and now - self._seen_at < POINTER_AWAY_S and told in (0, self._view.generation)

    async def read(self, attempt: Callable[[View], Awaitable[P | None]], lane_of: Callable[[View], int]) -> P:
        """Read from the live view; ``attempt`` gives None when a lane is lost, which may only mean a newer view.

        What it gives is true for ``lane_of``. A lane that stood further once, as all did at the switch, has lost writes
        and is read again until it stands there: raises ViewBehind when that takes too long, rather than give what is
        older than others have seen.
        """
        end = 0.0
        while True:
            result = await attempt(view := await self.view())
            if result is None:
                result = await attempt(view := await self.view(again=True))
            if result is None:
                raise ViewUnavailable
            if result.position >= (floor := max(self.since, self.progress.floor(view.generation, lane_of(view)))):
                return result
            end = end or time.monotonic() + WAIT_S
            if time.monotonic() >= end:
                raise ViewBehind(floor)
            await asyncio.sleep(AGAIN_S)

    async def read_fresh(self, attempt: Callable[[View], Awaitable[P | None]], number: int, fresh: Freshness) -> P:
        """``read`` of the lane of ``number``, waiting a bounded time while it has not come to ``fresh.position``.

        Still behind then, a strict caller gets ViewBehind and any other what there is.
        """

        def lane_of(view: View) -> int:
            return view.lane_of(number)

        result = await self.read(attempt, lane_of)
        if result.position >= fresh.position:
            return result
        view = await self.view()
        await self.progress.wait(fresh.position, [group_of(lane_of(view))], WAIT_S)
        await self.view(again=True)
        result = await self.read(attempt, lane_of)
        if result.position < fresh.position and fresh.strict:
            raise ViewBehind(fresh.position)
        return result
