"""The alerts and the dashboard of deploy/ use metrics that exist, and docs/operate.md has a row for each alert."""

import json
import re

from cli.dev.processes import ROOT
from projections.state.problems import KINDS

FOLDER = ROOT / "deploy" / "prometheus"
ALERTS = (FOLDER / "alerts.yaml").read_text()
DASHBOARD = (FOLDER / "grafana-dashboard.json").read_text()
OPERATE = (ROOT / "docs" / "operate.md").read_text()
# Those of a start or an end are not incidents, and `follows status` alone tries a write.
NOT_ALERTED = {"starting", "stopping", "postgres_refuses_writes", "redis_refuses_writes"}


def known_metrics() -> set[str]:
    """Return the names of all samples, from the reference."""
    rows = re.findall(r"^\| `(follows_\w+)` \| (\w+) ", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE)
    ends = ("_bucket", "_sum", "_count")
    histograms = [name + end for name, kind in rows if kind == "histogram" for end in ends]
    return {*histograms, *(name for name, kind in rows if kind != "histogram")}


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    for text in (ALERTS, DASHBOARD):
        used = set(re.findall(r"\bfollows_\w+", text))
        assert len(used) > 5 and used <= known_metrics()


def test_panels_of_the_dashboard_have_own_places_and_ids() -> None:
    panels = json.loads(DASHBOARD)["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels) > 20
    assert all(panel["type"] == "row" or panel["targets"] for panel in panels)


def test_each_problem_has_one_alert() -> None:
    coded = re.findall(r'code=~?"([a-z_|]+)"', ALERTS)
    codes = [code for found in coded for code in found.split("|")]
    assert sorted(codes) == sorted(KINDS.keys() - NOT_ALERTED)


def test_each_alert_has_a_row_in_operate_md() -> None:
    named = re.findall(r"- alert: (\w+)", ALERTS)
    section = OPERATE.split("### Metrics and alerts\n", 1)[1].split("\n### ", 1)[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `Follows")]
    assert [row[0].strip(" `") for row in rows] == named
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    assert ALERTS.count("runbook: docs/operate.md#metrics-and-alerts") == len(named)
