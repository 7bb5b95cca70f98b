"""A step of the projector as a span with the positions that it went from and to."""

from __future__ import annotations

from commands.tracing import record_span, span_began
from projections.projector.projector import Projector


async def traced_step(projector: Projector, limit: int) -> int:
    """Project the next batch, as ``Projector.step``. A step without events has no span."""
    began = span_began()
    after = projector.position if began else 0
    count = await projector.step(limit)
    if began and count:
        record_span("step", began, after=after, position=projector.position, events=count)
    return count
