"""An event loop whose time passes only when nothing else is left to do, so that hours take milliseconds."""

from __future__ import annotations

import asyncio
from typing import Any


class NothingLeftError(RuntimeError):
    """Everybody waits, and nothing will ever happen."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Timers and tasks as ever; there are no sockets, and waiting for the next timer is to set the clock."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._clock_resolution = 1e-9
        self._now = 0.0

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """What the loop calls to wait for sockets or the next timer."""
        if timeout is None:
            raise NothingLeftError
        self._now += timeout
        return []

    def _process_events(self, _: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody has to be woken."""
