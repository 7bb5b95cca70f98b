"""A long run of the simulation that was stopped goes on where it stopped."""

from pathlib import Path

import pytest

from tests.proof import report, simulation
from tests.proof.trial import Counts, Trial


def test_what_is_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two chunks of three are there, and half a line; the third comes with the next run, the last has nothing to do."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "commit", lambda: "abc1234")
    monkeypatch.setattr(simulation, "LONG", 30)
    monkeypatch.setattr(simulation, "CHUNK", 10)
    trial = Trial(7, "long", tmp_path)
    whole = simulation.run(trial)
    assert whole.tried["schedules"] == 30 and not whole.wrong
    ledger = tmp_path / ".proof" / "simulation-7-abc1234.jsonl"
    lines = ledger.read_bytes().splitlines()[1:]
    ledger.write_bytes(b"\n" + b"\n".join(lines[::2]) + b"\n" + lines[1][:30])
    for earlier in (20, 30):
        found = simulation.run(trial).tried
        assert found.pop("of them in earlier runs of this seed") == earlier and found == whole.tried
    assert sorted(filter(None, ledger.read_bytes().splitlines())) == sorted([*lines, lines[1][:30]])


def test_changed_code_has_no_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it was yesterday says nothing of what it is today."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "commit", lambda: "abc1234 and changes")
    ledger = simulation.Ledger(7)
    ledger.add(0, Counts())
    assert not ledger.done and not list(tmp_path.iterdir())
