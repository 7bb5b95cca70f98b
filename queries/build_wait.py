"""How long a caller should wait before asking again for a view that is being built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

RETRY_MIN_S: Final = 1
RETRY_MAX_S: Final = 60
# After this time without a refused read, the next one is about another build. Longer than callers wait.
FORGET_S: Final = 2 * RETRY_MAX_S


class BuildWait:
    """Guesses what is left of a build: as long as it has taken so far, since reads were first refused for it.

    A caller that comes back as told asks less and less often, down to once a minute, and is served at the latest after
    twice the time that the build took, or a minute after its end.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = self._last = float("-inf")

    def retry_after_s(self) -> int:
        """Return the time for Retry-After of a read that is refused now, in whole seconds."""
        now = self._clock()
        if now - self._last > FORGET_S:
            self._began = now
        self._last = now
        return max(RETRY_MIN_S, min(RETRY_MAX_S, round(now - self._began)))

    def end(self) -> None:
        """Note that another view is live: the next refused read is about another build."""
        self._last = float("-inf")
