"""An event loop with virtual time: its clock jumps to the next timer when nothing else is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from typing import Any


class DeadlockError(RuntimeError):
    """All tasks wait, and no timer is set."""


class Call:
    """A call that the loop is to make: what asyncio uses of a handle.

    An error in it ends the run, and all calls share the context variables. With asyncio's own handles a schedule takes
    a seventh longer.
    """

    __slots__ = ("arguments", "callback", "is_cancelled")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.callback, self.arguments, self.is_cancelled = callback, arguments, False

    def cancel(self) -> None:
        """Do not make it."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """Return whether it is not to be made."""
        return self.is_cancelled


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop without sockets and threads, in which waiting for the next timer only advances the clock.

    It replaces what BaseEventLoop does at each turn for sockets, threads and debugging: that was two fifths of all the
    time of a simulation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._ready: Any  # of BaseEventLoop: the calls of this turn and the next, in order
        self._timers: list[tuple[float, int, Call]] = []
        self._numbers = count()

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        """As BaseEventLoop."""
        handle = Call(callback, args)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        """As BaseEventLoop."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        """As BaseEventLoop."""
        handle = Call(callback, args)
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _run_once(self) -> None:
        ready = self._ready
        while not ready:
            if not self._timers:
                raise DeadlockError
            when, _, handle = heappop(self._timers)
            if not handle.is_cancelled:
                self._now = max(self._now, when)
                ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.is_cancelled:
                handle.callback(*handle.arguments)
