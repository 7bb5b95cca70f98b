"""A request to stop: set by a signal, checked wherever `follows up` waits."""

import os
import signal
import time
from types import FrameType


class Stopped(Exception):
    """Raised when `follows up` was asked to stop."""


class Stopping:
    """The request. It is not a threading.Event: a signal handler that sets one could meet its lock held by a wait."""

    def __init__(self) -> None:
        self.asked = False
        self.parent: int | None = None

    def on_signals(self, parent: int | None = None) -> None:
        """Set it at Ctrl-C, SIGTERM or a closed terminal; a second signal changes nothing, so the stop stays orderly.

        With ``parent``, also set it when that process has ended, as when `make up` was killed.
        """
        self.parent = parent
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def wait(self, seconds: float) -> bool:
        """Sleep and return whether to stop. A signal does not shorten the sleep: keep it below a second."""
        if not self.asked:
            time.sleep(seconds)
        if self.parent is not None and os.getppid() != self.parent:
            self.asked = True
        return self.asked

    def check(self) -> None:
        """Raise Stopped when asked to stop; for use between the steps of a start."""
        if self.asked:
            raise Stopped

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
