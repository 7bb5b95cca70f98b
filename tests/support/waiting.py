"""Waiting for a condition in an async test."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

# Far more than any condition takes; a test that waits so long has found a fault.
WAIT_TIMEOUT_S = 60.0
# Long enough that polling leaves the processors to the processes that it waits for.
POLL_INTERVAL_S = 0.002


async def until(condition: Callable[[], Any], limit_s: float = WAIT_TIMEOUT_S) -> Any:
    """Return the condition's value as soon as it is true; fail if it is not after ``limit_s`` seconds."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not true after {limit_s} s: {getattr(condition, '__qualname__', condition)}")
        await asyncio.sleep(POLL_INTERVAL_S)
