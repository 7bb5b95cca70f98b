"""Prometheus as Debian packages it: it reads the files of deploy/ and scrapes all processes while they are killed."""

import itertools
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from cli.dev.processes import ROOT
from tests.servers.conftest import path_of
from tests.support.breakable_servers import wait_until
from tests.support.prometheus import running_prometheus
from tests.support.scraped import PROCESSES, ask, metrics_settings
from tests.support.servers import Service, running_service

DEPLOY = ROOT / "deploy" / "prometheus"
CRASH_LOOP_S = 8.0
KILLS = 3
OPERATION = "GET /v1/users/{user_id}/followers"
# What the alerts must and must not fire on, in the form of `promtool test rules`.
ALERT_TEST = f"""
rule_files: ["{DEPLOY / "alerts.yaml"}"]
evaluation_interval: 30s
tests:
  - interval: 30s
    input_series:
      - {{series: 'follows_unavailable_total{{dialect="v1",reason="view_behind"}}', values: '0+0x10 0+3x20'}}
      - {{series: 'follows_request_duration_seconds_count{{status="200"}}', values: '0+100x30'}}
      - {{series: 'follows_problem{{code="no_worker",instance="a"}}', values: '0x10 1x20'}}
      - {{series: 'follows_problem{{code="no_worker",instance="b"}}', values: '0x30'}}
      - {{series: 'follows_problem{{code="views_late"}}', values: '0x30'}}
      - {{series: 'follows_builds', values: '1x60'}}
      - {{series: 'follows_build_position', values: '0+5x10 50x50'}}
    alert_rule_test:
      - {{eval_time: 5m, alertname: FollowsNoWorker}}
      - {{eval_time: 10m, alertname: FollowsViewsLate}}
      - eval_time: 10m
        alertname: FollowsNoWorker
        exp_alerts:
          - exp_labels: {{severity: page}}
            exp_annotations: {{summary: nothing is projected, runbook: docs/operate.md#metrics-and-alerts}}
      - {{eval_time: 5m, alertname: FollowsAnswers503}}
      - eval_time: 15m
        alertname: FollowsAnswers503
        exp_alerts:
          - exp_labels: {{severity: page}}
            exp_annotations: {{summary: 3% of the answers are 503, runbook: docs/operate.md#metrics-and-alerts}}
      - {{eval_time: 10m, alertname: FollowsBuildStuck}}
      - eval_time: 25m
        alertname: FollowsBuildStuck
        exp_alerts:
          - exp_labels: {{severity: page}}
            exp_annotations:
              summary: a view that is being built does not grow
              runbook: docs/operate.md#metrics-and-alerts
"""


def promtool(*words: str, given: str = "") -> str:
    """Run promtool; return its output. Fails with it when a file is refused."""
    command = [path_of("promtool"), *words]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def kill_web_child(service: Service) -> None:
    """Kill a process that the web parent has started; the parent starts another one.

    It would end if that died again within 5.5 s: that process must be older.
    """
    child = psutil.Process(service.processes["web"].pid).children()[0]
    wait_until(lambda: time.time() - child.create_time() > CRASH_LOOP_S)
    child.kill()


def test_promtool_accepts_rules_and_configuration() -> None:
    assert "12 rules found" in promtool("check", "rules", str(DEPLOY / "alerts.yaml"))
    promtool("check", "config", str(DEPLOY / "prometheus.yaml"))


def test_promtool_accepts_all_expressions_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    written = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    asked = [expression.replace("$__rate_interval", "1m") for expression in written]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    file = tmp_path / "dashboard.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    file = tmp_path / "alerts_test.yaml"
    file.write_text(ALERT_TEST)
    promtool("test", "rules", str(file))


@pytest.fixture
def own() -> Mapping[str, Mapping[str, str]]:
    """Addresses of the metrics of the processes."""
    return metrics_settings()


def test_prometheus_scrapes_all_processes_while_they_are_killed(
    database_url: str, redis_url: str, queue_url: str, tmp_path: Path, own: Mapping[str, Mapping[str, str]]
) -> None:
    """Each request is counted once, but for those of the last second of a process that was killed."""
    urls = database_url, redis_url, queue_url
    with (
        running_service(*urls, tmp_path, processes=PROCESSES, own=own) as service,
        running_prometheus(path_of("prometheus"), tmp_path, own) as prometheus,
        service.client("ann") as client,
    ):
        for name in PROCESSES:
            promtool("check", "metrics", given=ask(own, name, "/metrics").text)
        wait_until(lambda: prometheus.value("count(up == 1)") == 3)
        began, answered = time.time(), 0
        for _ in range(KILLS):
            for _ in range(20):
                answered += client.get("/v1/users/ann/followers").status_code in (200, 404)
            counted = f'sum(follows_request_duration_seconds_count{{operation="{OPERATION}"}})'
            wait_until(lambda: prometheus.value(counted) == answered)  # noqa: B023
            for name in ("worker", "rebuilder"):
                service.kill(name)
                service.start(name)
            kill_web_child(service)
            service.wait_ready()
            assert prometheus.value(counted) == answered
        wait_until(lambda: prometheus.value("count(follows_process_ready == 1)") == 3)
        lasted = f"{int(time.time() - began) + 1}s"
        sums = prometheus.query(f'follows_request_duration_seconds_count{{operation="{OPERATION}"}}[{lasted}]')
        for series in sums:
            values = [float(value) for _, value in series["values"]]
            assert all(before <= after for before, after in itertools.pairwise(values)), series
        resets = f'max(resets(follows_request_duration_seconds_count{{job="web"}}[{lasted}]))'
        assert prometheus.value(resets) == 0
