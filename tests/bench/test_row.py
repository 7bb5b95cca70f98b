"""A row of the benchmark runs from end to end on a small graph, with real servers and every answer checked."""

from pathlib import Path

from bench.pace import Pace
from bench.report import line, machine, new_report, save
from bench.rows import status
from bench.stage import open_stage

USERS = 600


def test_follow_status(tmp_path: Path) -> None:
    graph = tmp_path / "graph.csv"
    edges = [(user, (user + step) % USERS) for user in range(USERS) for step in (1, 7)]
    graph.write_text("follower,followed\n" + "".join(f"{a},{b}\n" for a, b in edges))
    folder = tmp_path / "stage"
    folder.mkdir(mode=0o711)
    with open_stage(folder, Pace(seconds=0.3, turns=1, warm_s=0.1, connections=8, graph=graph)) as stage:
        about = machine(stage.settings())
        (result,) = status.run(stage)
    assert result.verdict in ("met", "not met"), line(result)
    assert result.details["ours"]["cpu_us_per_request"]["web"] > 0
    save(tmp_path / "results", new_report([result], 1.0, about))
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"latest.json", "latest.md", "latest.svg"}
