"""The short form of each part of the proof, on the run's own servers, with a new seed each time."""

import secrets
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.proof import report, trial
from tests.proof.trial import PARTS, Counts, Trial, attempt
from tests.servers import Servers


@pytest.mark.parametrize("name", PARTS)
def test_nothing_is_lost(name: str, servers: Servers, tmp_path: Path) -> None:
    """The long form is `make proof`."""
    counts = attempt(name, Trial(secrets.randbelow(2**32), "short", tmp_path, servers))
    assert not counts.wrong, "\n".join(counts.wrong)  # each with its seed


def test_the_table_and_the_page(tmp_path: Path) -> None:
    """A row for each thing tried; complaints come with the page."""
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
        report.keep(name, result, "abc1234", tmp_path / "docs" / "proof")
    page = (tmp_path / "docs" / "proof.md").read_text()
    assert report.table(results) in page  # one run of a part keeps what another's has found
    assert "- 2 kills: a view is wrong" in page and "Not run at full length yet: `kill_points`" in page


def test_every_complaint_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once, also where the part has said so itself."""
    told = Trial(7, "short", tmp_path).again("soak")
    found = ["it grew", f"a view is wrong; {told}", "a reader is wrong; again: python -m tests.proof soak --replay 8"]
    monkeypatch.setattr(trial, "part", lambda _: SimpleNamespace(run=lambda _: Counts({"seconds": 8}, list(found))))
    grew, *others = attempt("soak", Trial(7, "short", tmp_path)).wrong
    assert grew == "it grew; again: python -m tests.proof soak --short --seed 7" and others == found[1:]


def test_what_breaks_a_part_is_something_wrong(servers: Servers, tmp_path: Path) -> None:
    """An exception counts, and says how to see it again."""
    [wrong] = attempt("no_such_part", Trial(7, "short", tmp_path, servers)).wrong
    assert "again: python -m tests.proof no_such_part --short --seed 7" in wrong
