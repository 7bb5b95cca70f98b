"""The address of a process for its operators: metrics, health, and nothing else."""

import logging
import socket
import struct
import threading
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from commands.errors import SettingsError
from projections.metrics import server
from projections.metrics.address import metrics_address
from projections.metrics.server import ProcessHealth, serving_metrics
from tests.support.raw_requests import exchange
from tests.support.servers import free_port

FOUND = {"health": ProcessHealth(ready=True, degraded=["paused"])}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client of a server with one counter and the health in ``FOUND``."""
    registry = CollectorRegistry()
    Counter("x", "words", registry=registry).inc(3)
    address = f"127.0.0.1:{free_port()}"
    with (
        serving_metrics(address, registry, lambda: FOUND["health"]),
        httpx.Client(base_url=f"http://{address}", trust_env=False) as client,
    ):
        yield client


def test_metrics_are_text_of_prometheus(client: httpx.Client) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    assert "# HELP x_total words\n# TYPE x_total counter\nx_total 3.0\n" in answer.text


@pytest.mark.parametrize(
    ("health", "ready", "live"),
    [
        (ProcessHealth(ready=True, degraded=["paused"]), 200, 200),
        (ProcessHealth(ready=False, degraded=["starting"]), 503, 200),
        (ProcessHealth(ready=False, degraded=[], alive=False), 503, 503),
    ],
)
def test_health_is_answered_with_its_reasons(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, health: ProcessHealth, ready: int, live: int
) -> None:
    monkeypatch.setitem(FOUND, "health", health)
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (ready, {"ready": health.ready, "degraded": health.degraded})
    answer = client.get("/health/live")
    assert (answer.status_code, answer.json()["status"]) == (live, "alive" if health.alive else "hangs")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/health", "/v1/users/me/following"])
def test_other_paths_are_404(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9000", ("127.0.0.1", 9000)), ("[::1]:1", ("::1", 1)), ("metrics.example.org:65535", None)],
)
def test_address_is_host_and_port(text: str, address: tuple[str, int] | None) -> None:
    assert metrics_address(text) == (address or ("metrics.example.org", 65_535))


@pytest.mark.parametrize("text", ["9000", ":9000", "a:b", "host:0", "host:65536", "::1:9000", "host:1 ", "http://h:1"])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="FOLLOWS_METRICS must be HOST:PORT"):
        metrics_address(text)


def test_port_in_use_is_refused_in_one_sentence(client: httpx.Client) -> None:
    address = f"{client.base_url.host}:{client.base_url.port}"
    with (
        pytest.raises(SettingsError, match=f"FOLLOWS_METRICS: cannot listen on {address}: Address already in use"),
        serving_metrics(address, CollectorRegistry(), lambda: FOUND["health"]),
    ):
        pass


def join_requests() -> None:
    """Wait until the server has done with all clients whose connections it has accepted."""
    for thread in threading.enumerate():
        if "process_request" in thread.name:
            thread.join()


def test_clients_that_stop_halfway_or_are_gone_are_no_lines(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(server.QuietHandler, "timeout", 0.1)
    address = str(client.base_url.host), int(client.base_url.port or 0)
    for sent in (b"", b"GET /metrics HTTP/1.1\r\nHost: a", b"GET"):
        assert b"200 OK" not in exchange(address, sent, ends=False)
        exchange(address, sent)
    with socket.create_connection(address) as gone:
        gone.sendall(b"GET /metrics HTTP/1.1\r\n")
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends a reset
    assert client.get("/metrics").status_code == 200
    join_requests()
    assert not caplog.records and capfd.readouterr().err == ""


def test_client_that_does_not_read_its_answer_is_no_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is larger than what sockets hold, so writing it takes longer than a client may."""
    monkeypatch.setattr(server.QuietHandler, "timeout", 0.1)
    registry, port = CollectorRegistry(), free_port()
    Counter("x", "w" * 20_000_000, registry=registry)
    with (
        serving_metrics(f"127.0.0.1:{port}", registry, lambda: FOUND["health"]),
        socket.create_connection(("127.0.0.1", port)) as slow,
    ):
        slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        slow.recv(1)
        join_requests()
    assert not caplog.records and capfd.readouterr().err == ""


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_bug_in_an_answer_is_one_log_record(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    monkeypatch.delitem(FOUND, "health")
    assert client.get(path).status_code == 500
    [record] = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info is not None
    assert capfd.readouterr().err == ""
