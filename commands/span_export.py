"""The exporter of spans: one log line when they cannot be sent, and one when they can again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

logger: Final = logging.getLogger(__name__)


class ReportingExporter(OTLPSpanExporter):
    """Sends spans. The library logs each of its tries, several a second, so its own lines are switched off."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._is_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; those that cannot be sent are lost."""
        try:
            result = super().export(spans)
        except Exception as error:  # the library would log it for each batch, and its text may repeat an address
            result, why = SpanExportResult.FAILURE, type(error).__name__
        else:
            why = "refused, or no answer"
        is_down = result is not SpanExportResult.SUCCESS
        if is_down and not self._is_down:
            logger.warning("spans cannot be sent to OTEL_EXPORTER_OTLP_ENDPOINT and are lost: %s", why)
        elif self._is_down and not is_down:
            logger.info("spans are sent again")
        self._is_down = is_down
        return result
