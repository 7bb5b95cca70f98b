"""Rows of the benchmark, from end to end on a small graph, with real servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import testbed as servers
from bench.report import line, machine, markdown, new_report, save
from bench.rows import logs, mixed, status
from bench.settings import BenchSettings

USERS = 600


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Testbed]:
    """A testbed whose rows take part of a second."""
    folder = tmp_path_factory.mktemp("testbed")
    folder.chmod(0o711)
    graph = folder / "graph.csv"
    edges = [(user, followed) for user in range(USERS) for followed in ((user + 1) % USERS, user + USERS)]
    edges += [(user, (user + 7) % USERS) for user in range(USERS)]
    graph.write_text("follower,followed\n" + "".join(f"{a},{b}\n" for a, b in edges))
    settings = BenchSettings(seconds=0.3, rounds=1, warm_up_s=0.1, connections=8, graph=graph, size_divisor=20)
    with servers.open_testbed(folder, settings) as made:
        yield made


def test_row_status_runs_and_saves_its_results(testbed: servers.Testbed, tmp_path: Path) -> None:
    about = machine(testbed.server_settings())
    result, rate = status.run(testbed)
    assert result.verdict in ("met", "not met"), line(result)
    spent = result.details["ours"]["cpu_us_per_request"]
    assert spent["web"] > 0 and spent["all"] >= spent["web"] + spent["valkey"]
    assert result.ours == [pytest.approx(1e6 / spent["web"], rel=0.01)]
    assert rate.unit == "requests/s" and rate.ours[0] > 0
    save(tmp_path / "results", new_report([result], 1.0, about))
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"latest.json", "latest.md", "latest.svg"}


def test_row_mixed_has_the_cpu_of_each_process(testbed: servers.Testbed) -> None:
    (result,) = mixed.run(testbed)
    (spent,) = result.details["CPU us per request"]
    assert set(spent) == {"web", "worker", "postgres", "valkey"} and spent["web"] > 0
    assert "CPU us per request [{" in markdown(new_report([result], 1.0, {}))


def test_append_and_projection_have_the_cpu_of_each_process(testbed: servers.Testbed) -> None:
    testbed.service()
    appended = logs.append(testbed, testbed.database)
    assert appended.per_s > 0 and set(appended.cpu_us) == {"append", "postgres", "valkey"}
    assert appended.cpu_us["append"] > 0 and appended.cpu_us["postgres"] > 0
    projected = logs.project(testbed)
    assert projected.per_s > 0 and set(projected.cpu_us) == {"worker", "postgres", "valkey"}
    assert projected.cpu_us["worker"] > 0


def test_version_of_valkey_is_its_own(testbed: servers.Testbed) -> None:
    """And not that of the Redis that it stands in for."""
    with testbed.redis() as client:
        about = client.info("server")
    assert testbed.server_settings()["valkey_version"] == about["valkey_version"] != about["redis_version"]
