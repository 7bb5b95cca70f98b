"""The short form of each part of the proof, on the test run's servers, with a new seed each time."""

import secrets
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.proof import parts, report
from tests.proof.parts import PARTS, Counts, PartContext, run_part
from tests.support.servers import Servers


@pytest.mark.parametrize("name", PARTS)
def test_part_in_short_form_finds_nothing_wrong(name: str, servers: Servers, tmp_path: Path) -> None:
    counts = run_part(name, PartContext(secrets.randbelow(2**32), "short", tmp_path, servers))
    assert not counts.wrong, "\n".join(counts.wrong)  # each with the command that repeats it


def test_saved_results_are_in_table_and_page(tmp_path: Path) -> None:
    """The table has a row for each thing tried; the page adds complaints and names the parts that are missing."""
    results = [
        report.Result("1 order", 7, Counts({"orders": 2_000, "readers": 3}), 1.4),
        report.Result("2 kills", 7, Counts({"kills": 9}, ["a view is wrong"]), 2.6),
    ]
    assert report.table(results).splitlines()[2:] == [
        "| 1 order | orders | 2,000 | 7 | 0 | 1 |",
        "|  | readers | 3 |  |  |  |",
        "| 2 kills | kills | 9 | 7 | 1 | 3 |",
    ]
    for name, result in zip(("order", "kills"), results, strict=True):
        report.save(name, result, "abc1234", tmp_path / "docs" / "proof")
    page = (tmp_path / "docs" / "proof.md").read_text()
    assert report.table(results) in page  # saving one part keeps the results of the others
    assert "- 2 kills: a view is wrong" in page and "Not run at full length yet: `kill_points`" in page


def test_complaint_ends_with_one_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also if the part has added one itself."""
    found = ["it grew", "a reader is wrong; again: python -m tests.proof soak --replay 8"]
    monkeypatch.setattr(
        parts, "load_part", lambda _: SimpleNamespace(run=lambda _: Counts({"seconds": 8}, list(found)))
    )
    grew, *others = run_part("soak", PartContext(7, "short", tmp_path)).wrong
    assert grew == "it grew; again: python -m tests.proof soak --short --seed 7" and others == found[1:]


def test_exception_in_part_is_a_complaint(servers: Servers, tmp_path: Path) -> None:
    [wrong] = run_part("no_such_part", PartContext(7, "short", tmp_path, servers)).wrong
    assert "again: python -m tests.proof no_such_part --short --seed 7" in wrong
