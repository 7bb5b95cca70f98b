"""Spans for OpenTelemetry: off, and not even imported, unless FOLLOWS_TRACES is 1.

A web process has spans only for a request whose client samples it (`traceparent`). Workers and rebuilders begin traces
of their own. Both name positions of the log, by which a command and the step that projected it can be found together.
Where spans are sent, and what part of the workers' is kept, is set by the variables of OpenTelemetry (`OTEL_...`).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from commands.errors import SettingsError
from commands.process import this_process
from commands.settings import switch_from_env

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

# A process that stops waits no longer for a collector that does not answer.
STOP_TIMEOUT_S: Final = 5.0

_provider: TracerProvider | None = None
_tracer: Tracer | None = None
_begins_traces = False


def start_tracing(*, begins_traces: bool) -> bool:
    """Send spans if FOLLOWS_TRACES is 1, and return whether it is. Raises SettingsError.

    ``begins_traces`` is True for a process whose spans have no caller, as a worker's.
    """
    global _provider, _tracer, _begins_traces
    if not switch_from_env("FOLLOWS_TRACES"):
        return False
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from commands.span_export import ReportingExporter
    except ImportError:
        raise SettingsError("FOLLOWS_TRACES needs more packages: pip install 'follows[traces]'") from None
    process = this_process()
    resource = Resource.create(
        {"service.name": f"follows-{process.kind}", "host.name": process.host, "process.pid": process.pid}
    )
    # Its own hook at the exit waits for longer, and does not run in the processes that the HTTP server forks.
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(ReportingExporter()))
    _tracer, _begins_traces = _provider.get_tracer("follows"), begins_traces
    return True


def stop_tracing() -> None:
    """Send the spans that wait, for ``STOP_TIMEOUT_S`` at most; to be called once, when the process ends.

    A thread that is still sending then ends with the process.
    """
    if _provider is not None:
        sending = threading.Thread(target=_provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(STOP_TIMEOUT_S)


def tracer() -> Tracer | None:
    """Return what makes spans, None when tracing is off."""
    return _tracer


def span_began() -> int:
    """Return the time now, in ns since 1970, for ``record_span``; 0 when tracing is off."""
    return 0 if _tracer is None else time.time_ns()


def record_span(name: str, began: int, **attributes: Any) -> None:
    """Record work that began at ``began`` (``span_began``) and ends now, as a part of the span that is current.

    Without a current span it is recorded only by processes that begin traces. ``attributes`` get ``follows.`` in front
    of their names.
    """
    if _tracer is None:
        return
    from opentelemetry.trace import get_current_span

    if not _begins_traces and not get_current_span().is_recording():
        return
    named = {f"follows.{key}": value for key, value in attributes.items()}
    _tracer.start_span(name, start_time=began, attributes=named).end()


def current_trace() -> str:
    """Return the id of the trace that this request belongs to, as `traceparent` has it; "" when there is none."""
    if _tracer is None:
        return ""
    from opentelemetry.trace import format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else ""
