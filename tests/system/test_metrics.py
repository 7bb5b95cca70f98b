"""Metrics and health of web, worker and rebuilder as real processes."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping

import httpx
import psutil
import pytest

from projections.metrics.folder import FOLDER_VARIABLE, ignore_folder, keeps_metrics
from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.scraped import PROCESSES, Scrape, ask, metrics_settings, scrape
from tests.support.servers import Service, running_service

REQUESTS = "follows_request_duration_seconds_count"


class Measured:
    """A running service, and where its processes show their metrics."""

    def __init__(self, service: Service, own: Mapping[str, Mapping[str, str]]) -> None:
        self.service, self.own = service, own

    def ask(self, name: str, path: str) -> httpx.Response:
        """Ask a process at the address of its metrics."""
        return ask(self.own, name, path)

    def scrape(self, name: str) -> Scrape:
        """Return what a process shows."""
        return scrape(self.own, name)

    def counted(self, name: str = REQUESTS, **labels: str) -> float:
        """Return the web processes' sum of a metric."""
        return self.scrape("web").value(name, **labels)


@pytest.fixture(scope="module")
def measured(breakable: BreakableServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """A service of all three processes with two users; the environment has the folder of another program."""
    folder, own = tmp_path_factory.mktemp("measured"), metrics_settings()
    others = folder / "of-another-program"
    others.mkdir()
    urls = breakable.postgres.url, breakable.valkey.url, breakable.queue_url
    environment = {FOLDER_VARIABLE: str(others)}
    with running_service(*urls, folder, processes=PROCESSES, environment=environment, own=own) as service:
        with service.client("registry", "service") as registry:
            for name in ("ann", "bob"):
                assert registry.put(f"/v1/users/{name}", json={}).status_code in (200, 201)
        running = Measured(service, own)
        wait_until(lambda: running.counted(operation="PUT /v1/users/{user_id}") == 2)
        yield running
        assert not list(others.iterdir())


def test_each_request_is_counted_once_by_what_it_asked_for(measured: Measured) -> None:
    """Hot calls past the router and the same calls through it are one operation."""
    status, page = "GET /v1/users/{user_id}/follow-status", "GET /v1/users/{user_id}/followers"
    channel = "GET /kraken/channels/{channel}/follows"
    calls = [
        ("/v1/users/bob/follow-status", "v1", status, 200),
        ("/v1/users/nobody-77/follow-status", "v1", status, 404),
        ("/v1/users/bob/followers", "v1", page, 200),
        ("/v1/users/bob/followers?other=1", "v1", page, 200),
        ("/v1/users/bob/followers?page=x", "v1", page, 400),
        ("/v1/users/bob", "v1", "GET /v1/users/{user_id}", 200),
        ("/v1/nothing", "v1", "other", 404),
        ("/kraken/channels/bob/follows", "kraken", channel, 200),
        ("/kraken/channels/bob/follows?callback=f", "kraken", channel, 200),
        ("/kraken/channels/nobody-77/follows?callback=f", "kraken", channel, 404),
        ("/kraken/channels/bob", "kraken", "GET /kraken/channels/{channel}", 200),
        ("/kraken/nothing", "kraken", "other", 404),
    ]
    expected: dict[tuple[str, str, str], float] = {}
    before = measured.scrape("web")
    with measured.service.client("ann") as client:
        for path, dialect, operation, code in calls:
            client.get(path)
            key = dialect, operation, str(code)
            expected[key] = expected.get(key, 0) + 1
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        for path, dialect in (("/v1/users/bob/follow", "v1"), ("/kraken/channels/bob", "kraken")):
            assert client.options(path, headers=asked).status_code == 204
            expected[dialect, "other", "204"] = 1

    def grown() -> dict[tuple[str, str, str], float]:
        now = measured.scrape("web")
        keys = now.labels(REQUESTS)
        return {
            (dialect, operation, code): more
            for dialect, operation, code in keys
            if (more := _of(now, dialect, operation, code) - _of(before, dialect, operation, code))
        }

    wait_until(lambda: grown() == expected or sum(grown().values()) > len(calls) + 2, 20)
    assert grown() == expected


def _of(found: Scrape, dialect: str, operation: str, code: str) -> float:
    return found.value(REQUESTS, dialect=dialect, operation=operation, status=code)


def test_command_is_counted_in_batches_waits_and_projected_events(measured: Measured) -> None:
    names = ("follows_commit_batch_commands_sum", "follows_commit_duration_seconds_count")
    before, worker = measured.scrape("web"), measured.scrape("worker")
    with measured.service.client("ann") as client:
        assert client.post("/v1/users/bob/follow").status_code == 201
        assert client.delete("/v1/users/bob/follow").status_code == 204
    wait_until(lambda: [measured.counted(name) - before.value(name) for name in names] == [2, 2])
    waits = "follows_visible_wait_seconds_count"
    assert measured.counted(waits) - before.value(waits) == 2
    projected = "follows_projected_events_total"
    wait_until(lambda: measured.scrape("worker").value(projected) - worker.value(projected) == 2)


def test_state_has_the_values_of_status(measured: Measured) -> None:
    command = [sys.executable, "-m", "cli", "status", "--json"]
    done = subprocess.run(command, env=dict(measured.service.environment), capture_output=True, text=True, timeout=60)
    status = json.loads(done.stdout)
    position = status["log"]["position"]
    wait_until(lambda: measured.counted("follows_log_position") == position)
    found = measured.scrape("web")
    assert found.value("follows_view_generation") == status["view"]["generation"]
    assert found.value("follows_view_lag_events") == status["view"]["lag_events"] == 0
    assert found.value("follows_view_partitions", state="ok") == len(status["view"]["partitions"]) == 64
    assert found.value("follows_workers", state="alive") == len(status["workers"]) == 1
    groups = {group["group"]: group["position"] for group in status["view"]["lease_groups"]}
    assert len(groups) == 8
    for group, at in groups.items():
        assert found.value("follows_lease_group_position", group=str(group)) == at == position
        assert found.value("follows_lease_group_owned", group=str(group)) == 1
    assert found.value("follows_problem") == 0 == len(status["problems"])
    assert found.value("follows_process_ready") == found.value("follows_keys") == 1
    worker = measured.scrape("worker")
    assert (worker.value("follows_projected_position"), worker.value("follows_leases_held")) == (position, 8)


def test_all_processes_are_alive_and_ready(measured: Measured) -> None:
    for name in PROCESSES:
        well = {"ready": True, "degraded": []}
        wait_until(lambda name=name, well=well: measured.ask(name, "/health/ready").json() == well)  # type: ignore[misc]
        assert measured.ask(name, "/health/ready").status_code == 200
        assert measured.ask(name, "/health/live").json() == {"status": "alive"}


def test_sum_does_not_go_back_when_a_web_process_is_killed(measured: Measured) -> None:
    """The parent starts another one, which adds to the same sum."""
    operation = "GET /v1/users/{user_id}/followers"
    with measured.service.client("ann") as client:
        client.get("/v1/users/bob/followers")
    wait_until(lambda: measured.counted(operation=operation) > 0)
    before = measured.counted(operation=operation)
    [child] = psutil.Process(measured.service.processes["web"].pid).children()
    child.kill()
    wait_until(lambda: measured.scrape("web").value("follows_process_ready") == 0)
    assert measured.counted(operation=operation) == before
    assert measured.ask("web", "/health/ready").json() == {"ready": False, "degraded": ["starting"]}
    measured.service.wait_ready()
    with measured.service.client("ann") as client:
        client.get("/v1/users/bob/followers")
    wait_until(lambda: measured.counted(operation=operation) == before + 1)


def test_outage_of_redis_is_shown_by_all(measured: Measured, breakable: BreakableServers) -> None:
    before = measured.counted("follows_unavailable_total", reason="views_unavailable")
    with breakable.valkey.down(), measured.service.client("ann") as client:
        assert client.get("/v1/users/bob/followers").status_code == 503
        wait_until(lambda: measured.counted("follows_unavailable_total", reason="views_unavailable") == before + 1)
        wait_until(lambda: measured.counted("follows_problem", code="redis_unreachable") == 1)
        for name, code in (("worker", "redis_unreachable"), ("rebuilder", "queue_unreachable")):
            wait_until(lambda name=name: measured.ask(name, "/health/ready").status_code == 503)  # type: ignore[misc]
            wait_until(
                lambda name=name, code=code: code in measured.ask(name, "/health/ready").json()["degraded"]  # type: ignore[misc]
            )
            assert measured.ask(name, "/health/live").status_code == 200
    test_all_processes_are_alive_and_ready(measured)


def test_paused_projection_is_ready_and_degraded(measured: Measured) -> None:
    for command, degraded in (["pause", "--why", "a test"], ["paused"]), (["resume"], []):
        done = [sys.executable, "-m", "cli", *command]
        subprocess.run(done, env=dict(measured.service.environment), check=True, timeout=60, capture_output=True)
        wait_until(
            lambda degraded=degraded: (
                measured.ask("worker", "/health/ready").json()  # type: ignore[misc]
                == {"ready": True, "degraded": degraded}
            )
        )


def test_address_in_use_ends_the_start_in_one_sentence(measured: Measured) -> None:
    """Also of web, before it serves anything."""
    for name in PROCESSES:
        settings = {**measured.service.environment, **measured.own["web"]}
        command = [sys.executable, "-m", "cli", name, *(["--port", "0"] if name == "web" else [])]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)
        [line] = [line for line in done.stderr.splitlines() if "FOLLOWS_METRICS" in line]
        assert line.endswith("Address already in use") and done.returncode == 1, done.stderr


@pytest.mark.parametrize("address", ["nowhere", "taken"])
def test_refused_start_is_a_record_in_json(measured: Measured, address: str) -> None:
    own = measured.own["web"] if address == "taken" else {"FOLLOWS_METRICS": address}
    settings = {**measured.service.environment, **own, "FOLLOWS_LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "cli", "web", "--port", "0"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)
    record = json.loads(done.stderr)
    assert (record["process"], record["level"], done.returncode) == ("web", "CRITICAL", 1)
    assert record["message"].startswith("this process does not start: FOLLOWS_METRICS")


def test_web_without_metrics_leaves_the_folder_of_another_program_alone() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, "/nowhere")
        ignore_folder()
        assert not keeps_metrics()
