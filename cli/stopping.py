"""The wish to stop: set by a signal, looked at wherever `follows up` waits."""

import os
import signal
import time
from types import FrameType


class Stopped(Exception):
    """The user asked to stop while something was still starting."""


class Stopping:
    """Set once by a signal. No threading.Event: a handler that sets one can meet its lock held by a wait."""

    def __init__(self) -> None:
        self.asked = False
        self.parent: int | None = None

    def on_signals(self, parent: int | None = None) -> None:
        """Ctrl-C, SIGTERM or a closed terminal asks; a second one changes nothing: the end stays orderly.

        With ``parent`` its death asks too: `make up` was killed, and nobody is left to press Ctrl-C.
        """
        self.parent = parent
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def wait(self, seconds: float) -> bool:
        """Sleeps (a signal does not cut it short: keep it to a fraction of a second); whether to stop."""
        if not self.asked:
            time.sleep(seconds)
        if self.parent is not None and os.getppid() != self.parent:
            self.asked = True
        return self.asked

    def check(self) -> None:
        """Raises Stopped when asked to stop: for between the steps of a start."""
        if self.asked:
            raise Stopped

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
