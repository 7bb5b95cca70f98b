"""`follows as-of` and `history`: the past, to people and to programs."""

from pathlib import Path

import pytest

from commands import log
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed
from commands.postgres import Engine
from projections.store import Store
from tests.cli.tooling import Tools, tools_on
from tests.commands.writing import append, register

BEGAN = 1_370_166_345_250_000
MADE = "2013-06-02T09:45:45.250000Z"


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Three users: u1 followed u2 (with notifications, long ago) and u3, then no longer u2."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, _: Store) -> None:
        one, two, three = await register(engine, "u1", "u2", "u3")
        await append(engine, one, two, UserFollowed(created_at=BEGAN))
        await append(engine, one, two, NotificationsChanged(notifications=True, created_at=BEGAN))
        await append(engine, one, three, UserFollowed())
        await append(engine, one, two, UserUnfollowed())
        await append(engine, three, one, UserFollowed(notifications=True))

    found.prepare(work)
    return found


def test_lists_as_they_were(tools: Tools) -> None:
    """Before the first event nothing, in the middle what was, at a time what was recorded by then."""
    at = tools.really("as-of", 6, "u1", "--json").json
    assert at["position"] == 6 and at["user"] == {"number": 1, "id": "u1", "login": "u1"}
    followed = at["following"]["follows"]
    assert at["following"]["total"] == 2 and at["followers"] == {"total": 0, "follows": []}
    assert followed[0]["id"] == "u3" and followed[0]["notifications"] is False
    old = {"number": 2, "id": "u2", "login": "u2", "created_at": MADE, "notifications": True}
    assert followed[1] == old

    now = tools.follows("as-of", at["recorded_at"], "#1", "--json", "--limit", 1).json
    assert now["position"] == 6 and now["following"] == {"total": 2, "follows": followed[:1]}
    before = tools.follows("as-of", "2001-01-01T00:00:00+02:00", "u1", "--json").json
    assert (before["position"], before["recorded_at"]) == (0, None)
    assert before["following"]["total"] == before["followers"]["total"] == 0


def test_lists_for_people(tools: Tools) -> None:
    said = tools.follows("as-of", 8, "u1").out.splitlines()
    assert said[0].startswith("u1 (id u1, #1) at position 8, 20")
    assert said[1] == "follows 1" and said[2].endswith("Z  u3 (id u3, #3)")
    assert said[3] == "is followed by 1" and said[4].endswith("Z  u3 (id u3, #3)  notifications")
    said = tools.follows("as-of", 6, "U1", "--side", "following", "--limit", 1).out.splitlines()
    assert said[1] == "follows 2" and said[3:] == ["  and 1 more: --limit 0 shows all"]
    assert tools.follows("as-of", 0, "u1").out == (
        "u1 (id u1, #1) at position 0, before the first event\nfollows 0\nis followed by 0\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("as-of", "yesterday", "u1"), "'yesterday' is neither a log position nor an RFC 3339 time with an offset"),
        (("as-of", "2026-01-01T00:00:00", "u1"), "'2026-01-01T00:00:00' is neither"),
        (("as-of", "2026-02-30T00:00:00Z", "u1"), "'2026-02-30T00:00:00Z' is no time"),
        (("as-of", "2999-01-01T00:00:00Z", "u1"), "that time is still to come"),
        (("as-of", "99", "u1"), "position 99 is beyond the log's end, 8"),
        (("as-of", "1", "nobody"), "user 'nobody' does not exist"),
        (("history", "u1", "--with", "nobody"), "user 'nobody' does not exist"),
        (("history", "u1", "--since", "x"), "'x' is neither"),
    ],
)
def test_mistakes_are_one_line(tools: Tools, words: tuple[str, ...], said: str) -> None:
    done = tools.follows(*words)
    assert done.code == 1 and done.err.startswith(f"follows: {said}") and done.err.count("\n") == 1 and not done.out


def test_a_history_in_words(tools: Tools) -> None:
    def words(*options: object) -> list[str]:
        return [line.split("Z  ", 1)[1] for line in tools.follows("history", *options).out.splitlines()]

    assert words("u1") == [
        "was registered",
        "followed u2 (id u2, #2), since 2013-06-02T09:45:45.250000Z",
        "turned notifications on for u2 (id u2, #2)",
        "followed u3 (id u3, #3)",
        "no longer follows u2 (id u2, #2)",
        "was followed by u3 (id u3, #3), notifications on",
    ]
    assert words("u2", "--since", 3) == [
        "was followed by u1 (id u1, #1), since 2013-06-02T09:45:45.250000Z",
        "u1 (id u1, #1) turned notifications on for him",
        "is no longer followed by u1 (id u1, #1)",
    ]
    assert words("u1", "--with", "u3", "--until", 7) == ["followed u3 (id u3, #3)"]
    assert tools.follows("history", "u1", "--limit", 2).err == "(the last 2; --limit 0 shows all)\n"


def test_a_history_for_programs(tools: Tools) -> None:
    found = tools.really("history", "u1", "--json", "--limit", 0).objects
    assert [one["position"] for one in found] == [1, 4, 5, 6, 7, 8]
    assert found[2]["type"] == "NotificationsChanged"
    assert found[2]["data"] == {"notifications": True, "created_at": BEGAN}
    assert found[2]["object"] == {"number": 2, "id": "u2", "login": "u2"}

    async def last(engine: Engine, _: Store) -> int:
        return (await log.head(engine)).position

    assert found[-1]["position"] == tools.prepare(last)
