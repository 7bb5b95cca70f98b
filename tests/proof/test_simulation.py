"""A long run of the simulation that was stopped goes on where it stopped; a replay takes a real server, and finds."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from projections.catch_up import APPLY
from projections.setting_aside import Aside
from projections.store import Script
from tests.proof import __main__, report, simulation
from tests.proof.real_shelf import RealShelf
from tests.proof.trial import Counts, Trial
from tests.servers import Servers

# A schedule with parked events, and one in which Redis loses its tail.
PARKS, LOSES = 14, 28
REWOUND = "if position < expected then"


class Unguarded(RealShelf):
    """A server whose apply script does not see that the lane has lost its tail."""

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run any script, but for that guard."""
        assert script is not APPLY or REWOUND in script.text
        without = msgspec.structs.replace(script, text=script.text.replace(REWOUND, "if false then"))
        return super().run(without, keys, arguments)


async def nothing_waits(_: Aside, events: Sequence[Any]) -> Sequence[Any]:
    """Behind a parked event its pair does not wait."""
    return events


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


@pytest.mark.parametrize("seed", [PARKS, LOSES])
def test_a_replay_goes_both_ways(servers: Servers, tmp_path: Path, seed: int) -> None:
    """In the simulation and with a real server for its store."""
    found = simulation.replay(Trial(7, "short", tmp_path, servers), seed)
    assert found == Counts({"schedules simulated": 1, "schedules on a real server": 1})


def test_a_replay_finds_a_fault_of_the_loop(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways."""
    monkeypatch.setattr(Aside, "sort_out", nothing_waits)
    found = simulation.replay(Trial(7, "short", tmp_path, servers), PARKS).wrong
    assert {wrong.partition(": ")[0] for wrong in found} == {"simulated", "on a real server"}


def test_a_replay_finds_a_fault_of_a_script(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real server, which alone runs it."""
    monkeypatch.setattr(simulation, "RealShelf", Unguarded)
    found = simulation.replay(Trial(7, "short", tmp_path, servers), LOSES).wrong
    assert {wrong.partition(": ")[0] for wrong in found} == {"on a real server"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["kills", "--replay", "3"], "kills has no single runs to replay"),
        (["--replay", "3"], "--replay needs the one part to replay"),
        (["no_such_part"], "there is no part no_such_part"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    monkeypatch.setattr(sys, "argv", ["proof", *words])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    assert complaint in capsys.readouterr().err
