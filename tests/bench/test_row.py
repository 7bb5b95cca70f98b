"""A row of the benchmark, from end to end on a small graph, with real servers."""

from pathlib import Path

import pytest

from bench.report import line, machine, new_report, save
from bench.rows import status
from bench.settings import BenchSettings
from bench.testbed import open_testbed

USERS = 600


def test_row_status_runs_and_saves_its_results(tmp_path: Path) -> None:
    graph = tmp_path / "graph.csv"
    edges = [(user, (user + step) % USERS) for user in range(USERS) for step in (1, 7)]
    graph.write_text("follower,followed\n" + "".join(f"{a},{b}\n" for a, b in edges))
    folder = tmp_path / "testbed"
    folder.mkdir(mode=0o711)
    with open_testbed(
        folder, BenchSettings(seconds=0.3, rounds=1, warm_up_s=0.1, connections=8, graph=graph)
    ) as testbed:
        about = machine(testbed.server_settings())
        result, rate = status.run(testbed)
    assert result.verdict in ("met", "not met"), line(result)
    spent = result.details["ours"]["cpu_us_per_request"]
    assert spent["web"] > 0 and spent["all"] >= spent["web"] + spent["valkey"]
    assert result.ours == [pytest.approx(1e6 / spent["web"], rel=0.01)]
    assert rate.unit == "requests/s" and rate.ours[0] > 0
    save(tmp_path / "results", new_report([result], 1.0, about))
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"latest.json", "latest.md", "latest.svg"}
