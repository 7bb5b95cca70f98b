"""An event loop with virtual time: its clock jumps to the next timer when nothing else is left to do."""

from __future__ import annotations

import asyncio
from typing import Any


class DeadlockError(RuntimeError):
    """All tasks wait, and no timer is set."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop without sockets, in which waiting for the next timer only advances the clock."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._clock_resolution = 1e-9
        self._now = 0.0

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Advance the clock; the loop calls this to wait for sockets or the next timer."""
        if timeout is None:
            raise DeadlockError
        self._now += timeout
        return []

    def _process_events(self, _: list[Any]) -> None:
        """Do nothing: this loop has no sockets."""

    def _write_to_self(self) -> None:
        """Do nothing: no other thread uses this loop."""
