"""Waiting for a condition instead of for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

# Far beyond what anything here takes; a test that gets here has found a fault.
LIMIT_S = 60.0
# Long enough that waiting leaves the two cores to those who are waited for.
LOOK_AGAIN_S = 0.002


async def until(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """The condition's value as soon as it is true; fails when it is not within ``limit_s``."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"still not so after {limit_s} s: {getattr(condition, '__qualname__', condition)}")
        await asyncio.sleep(LOOK_AGAIN_S)
