"""The address of a process for its operators: metrics, health, and nothing else."""

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from commands.errors import SettingsError
from projections.metrics.address import metrics_address
from projections.metrics.server import ProcessHealth, serving_metrics
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
