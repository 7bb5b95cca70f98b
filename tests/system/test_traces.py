"""Traces and request logs of real processes: what a client samples, joined with the workers' steps by positions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from redis import Redis

from commands.span_export import ReportingExporter
from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.collector import Collector, collecting
from tests.support.servers import Service, free_port, running_service

SAMPLED, UNSAMPLED = "a" * 32, "b" * 32
PARENT = "c" * 16


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    with collecting() as server:
        yield server


@contextmanager
def tracing(breakable: BreakableServers, port: int, folder: Path, delay_ms: int = 100) -> Iterator[Service]:
    """Run a service whose processes send spans, and log requests as JSON; its views are lost before it starts."""
    with Redis.from_url(breakable.valkey.url) as views:
        views.flushall()
    environment = {
        "FOLLOWS_TRACES": "1",
        "FOLLOWS_REQUEST_LOG": "1",
        "FOLLOWS_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
        "OTEL_BSP_SCHEDULE_DELAY": str(delay_ms),
    }
    addresses = breakable.postgres.url, breakable.valkey.url, breakable.queue_url
    with running_service(*addresses, folder, environment=environment) as service:
        yield service


@pytest.fixture
def traced(breakable: BreakableServers, collector: Collector, tmp_path: Path) -> Iterator[Service]:
    """A service that sends spans to the collector."""
    with tracing(breakable, collector.server_port, tmp_path) as service:
        yield service


def attributes(span: Any) -> dict[str, Any]:
    """Return the attributes of a span."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_sampled_command_is_traced_to_the_step_that_projects_it(traced: Service, collector: Collector) -> None:
    """And a request that is not sampled has no span; a token is nowhere."""
    token = traced.token("tracey")
    with traced.client("registry", "service") as registry:
        for name in ("tracey", "bob-traced", "cid-traced"):
            assert registry.put(f"/v1/users/{name}", json={}).status_code in (200, 201)
    with traced.client("tracey") as ann:
        ann.headers["Authorization"] = f"Bearer {token}"
        sent = {"traceparent": f"00-{SAMPLED}-{PARENT}-01"}
        made = ann.post("/v1/users/bob-traced/follow", headers=sent)
        assert made.status_code == 201
        unsampled = {"traceparent": f"00-{UNSAMPLED}-{PARENT}-00"}
        assert ann.post("/v1/users/cid-traced/follow", headers=unsampled).status_code == 201
        assert ann.get(f"/kraken?oauth_token={token}", headers=sent).status_code == 200
        assert ann.get("/v1/users/bob-traced/follow-status", headers=sent).status_code == 200
    wait_until(
        lambda: len([span for span in collector.spans("web") if span.parent_span_id == bytes.fromhex(PARENT)]) == 3
    )
    spans = {span.name: span for span in collector.spans("web")}
    assert {span.trace_id.hex() for span in spans.values()} == {SAMPLED}
    request = spans["POST /v1/users/{user_id}/follow"]
    assert attributes(request)["http.response.status_code"] == 201
    assert {"GET /v1/users/{user_id}/follow-status", "GET /kraken"} <= spans.keys()
    position = int(made.headers["follow-position"])
    for name in ("commit", "visible wait"):
        assert spans[name].parent_span_id == request.span_id
        assert attributes(spans[name])["follows.position"] == position
        assert request.start_time_unix_nano <= spans[name].start_time_unix_nano <= spans[name].end_time_unix_nano

    def steps() -> list[dict[str, Any]]:
        return [attributes(span) for span in collector.spans("worker") if span.name == "step"]

    wait_until(lambda: any(step["follows.after"] < position <= step["follows.position"] for step in steps()))
    [build] = [attributes(span) for span in collector.spans("worker") if span.name == "build"]
    assert build["follows.generation"] >= 1 and build["follows.position"] < position
    assert not any(token.encode() in body for body in collector.bodies)
    assert token not in traced.logs()


def test_request_log_has_the_operation_and_the_trace(traced: Service) -> None:
    """One record for each request of a dialect: hot, routed, refused; neither path nor query."""
    with traced.client("guest-1", "guest") as guest:
        sent = {"traceparent": f"00-{SAMPLED}-{PARENT}-01", "X-Request-Id": "asked-1"}
        assert guest.get("/v1/users/secret-name/followers?page=1", headers=sent).status_code == 404
        assert guest.get("/v1/users/secret-name", headers={"X-Request-Id": "asked-2"}).status_code == 404
        assert guest.get("/v1/nothing/secret-name", headers={"X-Request-Id": "asked-3"}).status_code == 404

    def records() -> dict[str, dict[str, Any]]:
        lines = (traced.folder / "web.log").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return {each["request_id"]: each for each in found if each["logger"] == "requests"}

    wait_until(lambda: {"asked-1", "asked-2", "asked-3"} <= records().keys())
    hot, routed, other = (records()[f"asked-{number}"] for number in (1, 2, 3))
    assert (hot["operation"], hot["status"], hot["trace_id"]) == ("GET /v1/users/{user_id}/followers", 404, SAMPLED)
    assert (routed["operation"], routed["status"]) == ("GET /v1/users/{user_id}", 404) and "trace_id" not in routed
    assert (other["operation"], other["dialect"], other["status"]) == ("other", "v1", 404)
    assert all(each["duration_ms"] > 0 for each in (hot, routed, other))
    assert "secret-name" not in traced.logs()


def lines(service: Service, text: str) -> int:
    """Return how often the web process has logged a text."""
    return (service.folder / "web.log").read_text().count(text)


def wait_reported(service: Service, text: str) -> None:
    """Send sampled requests, which are answered, until the web process has logged a text."""

    def is_reported(guest: httpx.Client) -> bool:
        sent = {"traceparent": f"00-{SAMPLED}-{PARENT}-01"}
        assert guest.get("/kraken", headers=sent).status_code == 200
        return lines(service, text) > 0

    with service.client("guest-1", "guest") as guest:
        wait_until(lambda: is_reported(guest))


def test_collector_that_refuses_is_one_line(traced: Service, collector: Collector) -> None:
    """And one when it takes spans again."""
    collector.refuses = True
    wait_reported(traced, "spans cannot be sent")
    collector.refuses, seen = False, collector.refused
    assert seen > 0
    wait_reported(traced, "spans are sent again")
    assert (lines(traced, "spans cannot be sent"), lines(traced, '"logger":"opentelemetry')) == (1, 0)


def test_absent_collector_is_one_line(breakable: BreakableServers, tmp_path: Path) -> None:
    """Connections to its port are refused; one line more when it is there."""
    port = free_port()
    with tracing(breakable, port, tmp_path) as service:
        wait_reported(service, "spans cannot be sent")
        with collecting(port):
            wait_reported(service, "spans are sent again")
        assert (lines(service, "spans cannot be sent"), lines(service, '"logger":"opentelemetry')) == (1, 0)


def test_process_that_stops_sends_the_spans_that_wait(
    breakable: BreakableServers, collector: Collector, tmp_path: Path
) -> None:
    with tracing(breakable, collector.server_port, tmp_path, delay_ms=3_600_000) as service:
        with service.client("guest-1", "guest") as guest:
            sent = {"traceparent": f"00-{SAMPLED}-{PARENT}-01"}
            assert guest.get("/kraken", headers=sent).status_code == 200
        assert not collector.bodies
        service.stop("web")
        assert [span.name for span in collector.spans("web")] == ["GET /kraken"]
        service.stop("worker")
        assert "build" in [span.name for span in collector.spans("worker")]


def test_error_of_the_exporter_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    exporter = ReportingExporter()
    for _ in range(2):  # something else than a span makes the library raise
        assert exporter.export(None) is SpanExportResult.FAILURE  # type: ignore[arg-type]
    [line] = caplog.messages
    assert line.startswith("spans cannot be sent") and line.endswith("TypeError")
