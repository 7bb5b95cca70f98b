"""The address of a process for its operators: ``/metrics``, ``/health/live`` and ``/health/ready``, by plain HTTP.

It is served by a thread, so that it answers also while the process is busy or hangs.
"""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app

from commands.errors import SettingsError
from projections.metrics.address import metrics_address

logger: Final = logging.getLogger(__name__)

# A projection or a build keeps the event loop for some seconds at most. A process whose loop has not run for longer
# hangs.
HANGS_AFTER_S: Final = 60.0
# A client that is slower is disconnected.
CLIENT_TIMEOUT_S: Final = 10
# How soon the thread notices the end of the process.
STOP_POLL_S: Final = 0.1


class ProcessHealth(msgspec.Struct, frozen=True):
    """Whether the process does its work, and what is wrong all the same, in codes. ``alive`` is False when it hangs."""

    ready: bool
    degraded: list[str]
    alive: bool = True


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A WSGI server with a thread for each request."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, QuietHandler)

    def server_bind(self) -> None:
        """Bind, without the library's look-up of the host's name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a bug; a client that says nothing, stops halfway or is gone is worth no line."""
        if not isinstance(sys.exception(), OSError):
            logger.exception("a request at the address of the metrics failed")


class QuietHandler(WSGIRequestHandler):
    """Reads a request; prints nothing."""

    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *_: object) -> None:
        """Log nothing for a scrape."""

    def get_stderr(self) -> io.StringIO:
        """Return where the library prints errors of writing an answer, all of them the client's: nowhere."""
        return io.StringIO()


@contextmanager
def serving_metrics(
    text: str, registry: CollectorRegistry, health: Callable[[], ProcessHealth]
) -> Iterator[MetricsServer | None]:
    """Serve at the address ``text`` while the block runs; nothing when it is "". Raises SettingsError."""
    if not text:
        yield None
        return
    try:
        server = MetricsServer(metrics_address(text))
    except OSError as error:
        raise SettingsError(f"FOLLOWS_METRICS: cannot listen on {text}: {error.strerror or error}") from None
    server.set_app(metrics_app(registry, health))
    thread = threading.Thread(target=server.serve_forever, args=(STOP_POLL_S,), name="metrics", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def metrics_app(registry: CollectorRegistry, health: Callable[[], ProcessHealth]) -> Any:
    """Return the WSGI application."""
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)  # type: ignore[no-any-return]
        if path == "/health/live":
            alive = health().alive
            return _answer(start_response, alive, {"status": "alive" if alive else "hangs"})
        if path == "/health/ready":
            found = health()
            return _answer(start_response, found.ready, {"ready": found.ready, "degraded": found.degraded})
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/metrics, /health/live and /health/ready are here\n"]

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return answer(environ, start_response)
        except Exception:
            logger.exception("a request at the address of the metrics failed")
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the log of this process says why\n"]

    return app


def _answer(start_response: Any, ok: bool, body: dict[str, Any]) -> Iterable[bytes]:
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    start_response("200 OK" if ok else "503 Service Unavailable", headers)
    return [msgspec.json.encode(body)]
