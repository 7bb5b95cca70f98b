"""How often something that ends unasked is started again before we take it for broken."""

import time
from collections import deque
from collections.abc import Callable

# A kill or a crash now and then is survived without a word from anybody; one every few seconds has a cause.
RESTARTS_MAX = 5
WINDOW_S = 60.0
# A server that was killed may find the last of its helpers still at work, and fails once more at once.
PAUSE_S = 1.0


class Restarts:
    """The restarts of one process so far."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._past: deque[float] = deque(maxlen=RESTARTS_MAX)

    def used_up(self) -> bool:
        """Whether one more would be too many."""
        return len(self._past) == RESTARTS_MAX and self._now() - self._past[0] < WINDOW_S

    def due(self) -> bool:
        """Whether the last one is long enough ago."""
        return not self._past or self._now() - self._past[-1] >= PAUSE_S

    def note(self) -> None:
        """One more has happened."""
        self._past.append(self._now())
