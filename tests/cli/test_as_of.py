"""`follows as-of` and `history`, as text and as JSON."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import UNREADABLE, NotificationsChanged, UserFollowed, UserUnfollowed
from commands.log import event_log as log
from projections.client.client import RedisClient
from tests.support.cli_runner import Tools, tools_on
from tests.support.log_writes import append, register
from tests.support.unreadable_events import write_unknown, write_unreadable

BEGAN = 1_370_166_345_250_000
MADE = "2013-06-02T09:45:45.250000Z"


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Three users: u1 followed u2 (long ago, with notifications) and u3, then unfollowed u2; u3 followed u1."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, _: RedisClient) -> None:
        one, two, three = await register(engine, "u1", "u2", "u3")
        await append(engine, one, two, UserFollowed(created_at=BEGAN))
        await append(engine, one, two, NotificationsChanged(notifications=True, created_at=BEGAN))
        await append(engine, one, three, UserFollowed())
        await append(engine, one, two, UserUnfollowed())
        await append(engine, three, one, UserFollowed(notifications=True))

    found.prepare(work)
    return found


def test_lists_as_of_a_position_or_time_hold_what_was_recorded_by_then(tools: Tools) -> None:
    """Nothing before the first event, and what was recorded by the moment after it."""
    at = tools.follows_process("as-of", 6, "u1", "--json").json
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


def test_event_of_an_unknown_kind_is_named_and_passed_over(tools: Tools, database_url: str) -> None:
    """By `history`, `as-of` and `export`, which note on standard error what is parked for it."""

    async def work(engine: Engine, _: RedisClient) -> None:
        with psycopg.connect(database_url, autocommit=True) as sql:
            position = write_unknown(sql, (1, 3), 2)
            write_unreadable(sql, (1, 1), 2, "BroadcastStarted")
        await parked.park(engine, [(position, 1, 3, f"UserMuted {UNREADABLE}")])

    tools.prepare(work)
    told = tools.follows("history", "u1").out
    assert "UserMuted, which this version cannot read" in told
    assert "BroadcastStarted, which this version cannot read" in told
    now = tools.follows_process("as-of", 10, "u1")
    assert "follows 1\n" in now.out and "note: 1 events that could not be read are passed over" in now.err
    exported = tools.follows_process("export", "follows")
    assert exported.out.count("\nu1,u3,") == 1 and "follows parked" in exported.err


def test_time_that_goes_back_in_the_log_is_noted(tools: Tools) -> None:
    """An event from a clock that was a day ahead comes before the others."""

    async def work(engine: Engine, _: RedisClient) -> None:
        async with engine.connect() as connection:
            await connection.execute(
                text(
                    """INSERT INTO events (position, subject, object, version, type, recorded_at)
                    VALUES (nextval('events_position'), 2, 3, 1, 'UserFollowed', now() + interval '1 day')"""
                )
            )
        await append(engine, 3, 2, UserFollowed())

    before = tools.follows("as-of", 8, "u1", "--json").json["recorded_at"]
    tools.prepare(work)
    now = tools.follows("as-of", 10, "u1", "--json").json["recorded_at"]
    assert tools.follows("as-of", before, "u1").err == ""
    said = tools.follows("as-of", now, "u3", "--side", "following")
    assert said.out.splitlines()[0].startswith("u3 (id u3, #3) at position 10,")
    assert said.err.startswith("note: events before position 10 have later times")


def test_lists_as_text_show_totals_times_and_flags(tools: Tools) -> None:
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
        (("as-of", "2026-02-30T00:00:00Z", "u1"), "'2026-02-30T00:00:00Z' is not a time"),
        (("as-of", "2999-01-01T00:00:00Z", "u1"), "that time is still to come"),
        (("as-of", "99", "u1"), "position 99 is beyond the log's end, 8"),
        (("as-of", "1", "nobody"), "user 'nobody' does not exist"),
        (("history", "u1", "--with", "nobody"), "user 'nobody' does not exist"),
        (("history", "u1", "--since", "x"), "'x' is neither"),
    ],
)
def test_bad_argument_is_refused_in_one_line(tools: Tools, words: tuple[str, ...], said: str) -> None:
    done = tools.follows(*words)
    assert done.code == 1 and done.err.startswith(f"follows: {said}") and done.err.count("\n") == 1 and not done.out


def test_history_as_text_has_the_user_as_subject(tools: Tools) -> None:
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
        "u1 (id u1, #1) turned notifications on for them",
        "is no longer followed by u1 (id u1, #1)",
    ]
    assert words("u1", "--with", "u3", "--until", 7) == ["followed u3 (id u3, #3)"]
    assert tools.follows("history", "u1", "--limit", 2).err == "(the last 2; --limit 0 shows all)\n"


def test_history_as_json_has_one_object_per_line(tools: Tools) -> None:
    found = tools.follows_process("history", "u1", "--json", "--limit", 0).objects
    assert [one["position"] for one in found] == [1, 4, 5, 6, 7, 8]
    assert found[2]["type"] == "NotificationsChanged"
    assert found[2]["data"] == {"notifications": True, "created_at": BEGAN}
    assert found[2]["object"] == {"number": 2, "id": "u2", "login": "u2"}

    async def last(engine: Engine, _: RedisClient) -> int:
        return (await log.head(engine)).position

    assert found[-1]["position"] == tools.prepare(last)
