"""A collector of spans, as the processes send them."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does, over HTTP."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Export)
        self.bodies: list[bytes] = []
        # Whether it refuses what is sent, and how often it has.
        self.refuses, self.refused = False, 0

    def spans(self, kind: str) -> list[Any]:
        """Return the spans that processes of this kind have sent."""
        found = []
        for body in self.bodies:
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value.string_value for each in sent.resource.attributes}
                if names["service.name"] == f"follows-{kind}":
                    found += [span for scope in sent.scope_spans for span in scope.spans]
        return found


class Export(http.server.BaseHTTPRequestHandler):
    """One export."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.refuses:
            self.server.refused += 1
        else:
            self.server.bodies.append(body)
        self.send_response(400 if self.server.refuses else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Run a collector, on a free port unless one is given."""
    with Collector(port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
