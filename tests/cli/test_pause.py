"""`follows pause` and `resume`, with name and reason."""

import pwd
from pathlib import Path

import pytest

from tests.support.cli_runner import Tools, tools_on

PAUSED = "the projection is paused for every Redis that the log feeds\n"


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Commands on empty servers."""
    return tools_on(database_url, redis_url, queue_url, tmp_path)


def test_pause_is_shown_with_name_and_reason_until_resume(tools: Tools) -> None:
    """A second pause replaces name and reason, and the time stays that of the first."""
    assert tools.follows_process("pause", "--why", "moving house", "--who", "kim").out == PAUSED
    first = tools.follows("status", "--json").json["log"]["paused"]
    assert first.startswith("by kim since 20") and first.endswith(" (moving house)")
    assert tools.follows("pause", "--why", "still moving", "--who", "lee", "--json").json == {
        "paused": True,
        "who": "lee",
        "why": "still moving",
        "store": "",
    }
    assert tools.follows("status", "--json").json["log"]["paused"] == first.replace("kim", "lee").replace(
        "moving house", "still moving"
    )
    assert tools.follows("resume").out == "the projection is running again for every Redis that the log feeds\n"
    assert tools.follows("status", "--json").json["log"]["paused"] is None
    assert tools.follows("resume").out == "the projection was not paused for every Redis that the log feeds\n"
    assert tools.follows("resume", "--json").json == {"paused": False, "was_paused": False, "store": ""}


def test_pause_without_a_reason_is_wrong_usage(tools: Tools) -> None:
    assert tools.follows("pause").code == 2
    assert tools.follows("status", "--json").json["log"]["paused"] is None


def test_pause_by_a_uid_without_a_name_is_by_its_number(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_name)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    tools.follows("pause", "--why", "x")
    assert tools.follows("status", "--json").json["log"]["paused"].startswith("by uid 12345 since")
