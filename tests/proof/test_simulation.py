"""A stopped long run of the simulation continues; a replay uses a real server and finds broken guards."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from projections.client.client import Script
from projections.feeding import feeders
from projections.feeding.feeder_check import FeederCheck
from projections.projector.apply import APPLY
from projections.projector.parking import ParkedPairs
from projections.signals.progress import Progress
from tests.proof import __main__, simulation
from tests.proof.finished import Finished
from tests.proof.parts import Counts, PartContext
from tests.proof.real_redis import RealRedis
from tests.support.servers import Servers

# Schedules: with parked events; in which Redis loses its tail; with a copy of the database that can be told from the
# original, and with one that cannot; in which a copy writes a profile that is newer than its position, which both logs
# have; in which a copy goes on while the original's Postgres is away (two); in which the log loses its tail before
# anyone has followed; with a second Redis.
PARKS, LOSES, COPY, SAME_ADDRESS, NEWER_ROW, SECOND_REDIS = 3, 90, 78, 8, 1477, 209
AWAY, AWAY_TOO, NO_FOLLOWS = 5065300511358, 5065300512684, 5065300785805
BEHIND, OTHER_HISTORY = "if position < expected then", "at[3] ~= argv[4] and"


class UnguardedRedis(RealRedis):
    """A server whose apply script does not notice that a partition has lost its last writes."""

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run any script, the apply script without its guard."""
        text = script.text
        if script is APPLY:
            assert BEHIND in text and OTHER_HISTORY in text
            text = text.replace(BEHIND, "if false then").replace(OTHER_HISTORY, "false and")
        without = msgspec.structs.replace(script, text=text)
        return super().run(without, keys, arguments)


async def all_projectable(_: ParkedPairs, events: Sequence[Any]) -> Sequence[Any]:
    """Let events through whose pair is parked."""
    return events


def test_stopped_run_continues_with_unfinished_chunks(tmp_path: Path) -> None:
    """The file has two chunks of three and half a line: the next run does the third, the one after it nothing."""

    def run_long() -> Counts:
        finished = Finished("simulation-7", Counts, "abc1234", tmp_path)
        return simulation.run(PartContext(7, "long", tmp_path), schedules=30, per_chunk=10, finished=finished)

    whole = run_long()
    assert whole.tried["schedules"] == 30 and not whole.wrong
    file = tmp_path / "simulation-7-abc1234.jsonl"
    lines = file.read_bytes().splitlines()[1:]
    file.write_bytes(b"\n" + b"\n".join(lines[::2]) + b"\n" + lines[1][:30])
    for earlier in (20, 30):
        found = run_long().tried
        assert found.pop("of them in earlier runs of this seed") == earlier and found == whole.tried
    assert sorted(filter(None, file.read_bytes().splitlines())) == sorted([*lines, lines[1][:30]])


def test_changed_code_saves_no_finished_chunks(tmp_path: Path) -> None:
    finished = Finished("simulation-7", Counts, "abc1234 and changes", tmp_path)
    finished.add("0", Counts())
    assert not finished.done and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "seed", [PARKS, LOSES, COPY, SAME_ADDRESS, NEWER_ROW, AWAY, AWAY_TOO, NO_FOLLOWS, SECOND_REDIS]
)
def test_replay_runs_in_simulation_and_on_real_server(servers: Servers, tmp_path: Path, seed: int) -> None:
    found = simulation.replay(PartContext(7, "short", tmp_path, servers), seed)
    assert found == Counts({"schedules simulated": 1, "schedules on a real server": 1})


def test_replay_with_broken_projector_finds_it_both_ways(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ParkedPairs, "split", all_projectable)
    found = simulation.replay(PartContext(7, "short", tmp_path, servers), PARKS).wrong
    assert {wrong.partition(": ")[0] for wrong in found} == {"simulated", "on a real server"}


def test_replay_with_broken_script_finds_it_on_real_server(servers: Servers, tmp_path: Path) -> None:
    """Only the real server runs the script."""
    found = simulation.replay(PartContext(7, "short", tmp_path, servers), LOSES, real_redis=UnguardedRedis).wrong
    assert {wrong.partition(": ")[0] for wrong in found} == {"on a real server"}


@pytest.mark.parametrize(
    ("seed", "guarded", "guard", "broken"),
    [
        (COPY, feeders, "other_feeder", lambda *_: None),
        (SAME_ADDRESS, Progress, "server_run", property(lambda _: "", lambda *_: None)),
        (AWAY, Progress, "has_reported", lambda *_: True),
        (SECOND_REDIS, FeederCheck, "is_alone", lambda *_: True),
    ],
)
def test_schedule_finds_what_two_feeders_do_without_a_guard(
    monkeypatch: pytest.MonkeyPatch, seed: int, guarded: Any, guard: str, broken: Any
) -> None:
    monkeypatch.setattr(guarded, guard, broken, raising=False)
    assert simulation.run_schedules(seed, 1).wrong


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["kills", "--replay", "3"], "kills has no single runs to replay"),
        (["--replay", "3"], "--replay needs exactly one part"),
        (["no_such_part"], "there is no part no_such_part"),
    ],
)
def test_wrong_arguments_are_refused(
    words: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any server is started."""
    monkeypatch.setattr(sys, "argv", ["proof", *words])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    assert complaint in capsys.readouterr().err
