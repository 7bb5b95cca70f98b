"""The job of a worker process."""

from __future__ import annotations

from typing import Any

from projections.loop import ProjectionLoop


async def wake(ctx: dict[str, Any]) -> None:
    """Make this worker's loop read the log now; enqueued when no worker was subscribed to the wake-ups."""
    loop: ProjectionLoop = ctx["loop"]
    loop.wake()
