"""A long run of the simulation that was stopped goes on where it stopped."""

from pathlib import Path

import pytest

from tests.proof import report, simulation
from tests.proof.trial import Trial


def test_what_is_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two chunks of three are there; the third comes with the next run, and a last one has nothing left to do."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "commit", lambda: "abc and changes")
    monkeypatch.setattr(simulation, "LONG", 30)
    monkeypatch.setattr(simulation, "CHUNK", 10)
    trial = Trial(7, "long", tmp_path)
    whole = simulation.run(trial)
    assert whole.tried["schedules"] == 30 and not whole.wrong
    ledger = tmp_path / ".proof" / "simulation-7-abc-and-changes.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[::2]))
    for _ in range(2):
        assert simulation.run(trial).tried == whole.tried
    assert sorted(ledger.read_bytes().splitlines(keepends=True)) == sorted(lines)
