"""The lag of a view in seconds, as one process sees it: the log's times are compared with the process' own clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from projections.keys import View


class LagClock:
    """Times since when the live view has stayed where it is, and when it last had all of the log.

    The age of the first event that a view lacks is the difference of two readings of Postgres' clock, which may have
    stepped in between.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: tuple[View, int] | None = None
        self._moved_at = 0.0
        self._level_at: float | None = None

    def lag_s(self, view: View, position: int, head: int, age_us: int | None) -> float | None:
        """Return the lag of ``view`` at ``position``, None if not known; to be called with every look at the view.

        ``age_us`` is how long ago the first event after ``position`` was recorded, by Postgres' clock.
        """
        now = self._clock()
        if (view, position) != self._seen:
            self._seen, self._moved_at = (view, position), now
        if position >= head:
            self._level_at = now
            return 0.0
        lag_s = max((age_us or 0) / 1e6, now - self._moved_at)
        if self._level_at is not None:
            lag_s = min(lag_s, now - self._level_at)
        return lag_s if lag_s > 0 else None
