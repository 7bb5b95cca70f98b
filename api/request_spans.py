"""The span of a request that its client traces: named by its operation, with the status of the answer."""

from __future__ import annotations

from litestar.types import ASGIApp, Receive, Scope, Send
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from api.request_counts import LISTENERS

_propagator = TraceContextTextMapPropagator()


def with_spans(app: ASGIApp, tracer: Tracer) -> ASGIApp:
    """Wrap the application. A request without a sampled `traceparent` gets no span."""
    LISTENERS.append(_name_span)

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        sent = {} if str(scope["type"]) == "lifespan" else dict(scope["headers"])
        if b"traceparent" not in sent:
            await app(scope, receive, send)
            return
        carrier = {
            name: sent[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in sent
        }
        parent = _propagator.extract(carrier)
        if not trace.get_current_span(parent).get_span_context().trace_flags.sampled:
            await app(scope, receive, send)
            return
        with tracer.start_as_current_span("request", context=parent, kind=SpanKind.SERVER):
            await app(scope, receive, send)

    return traced


def _name_span(dialect: str, operation: str, status: int, _: float) -> None:
    span = trace.get_current_span()
    if span.is_recording():
        span.update_name(operation)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("follows.dialect", dialect)
        if status >= 500:
            span.set_status(StatusCode.ERROR)
