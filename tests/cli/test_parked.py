"""`follows parked`: listing parked events, retrying and skipping them."""

from pathlib import Path

import psycopg
import pytest

from commands.coordination import parked
from commands.db.postgres import Engine
from commands.events import UserFollowed
from projections.client.client import RedisClient
from tests.support.cli_runner import Tools, tools_on
from tests.support.log_writes import append, register
from tests.support.small_world import viewed

UNREADABLE = """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
VALUES (nextval('events_position'), %s, %s, 1, 'UserFollowed', next_recorded_at(), '{"notifications": 5}')"""


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Five users; the events at positions 6 and 7 cannot be read, and are parked."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, redis: RedisClient) -> None:
        await register(engine, "a", "b", "c", "d", "e")
        with psycopg.connect(database_url, autocommit=True) as sql:
            for pair in ((1, 2), (3, 4)):
                sql.execute(UNREADABLE, pair)
        await append(engine, 1, 3, UserFollowed())
        await viewed(engine, redis)

    found.prepare(work)
    return found


def make_readable(database_url: str, position: int) -> None:
    """Make an event readable, as a new version of the code does."""
    with psycopg.connect(database_url, autocommit=True) as sql:
        sql.execute("SET session_replication_role = replica")
        sql.execute("UPDATE events SET data = NULL WHERE position = %s", [position])


def test_parked_events_are_listed_with_pair_time_and_reason(tools: Tools) -> None:
    """`status` counts them."""
    lines = tools.follows_process("parked").out.splitlines()
    assert len(lines) == 2 and lines == tools.follows("parked", "list").out.splitlines()
    assert lines[0].startswith("         6  20") and "  #1 and #2: UserFollowed cannot be read: " in lines[0]
    rows = tools.follows("parked", "--json").json
    assert [(row["position"], row["subject"], row["object"]) for row in rows] == [(6, 1, 2), (7, 3, 4)]
    assert tools.follows("status", "--json").json["log"]["parked"] == 2


def test_retry_of_readable_events_unparks_them(tools: Tools, database_url: str) -> None:
    """An event that is still unreadable is reported with exit code 1."""
    done = tools.follows("parked", "retry", "--all")
    assert done.code == 1 and "#1 and #2: position 6: UserFollowed cannot be read" in done.out
    make_readable(database_url, 6)
    assert tools.follows("parked", "retry", 6).out == "#1 and #2: repaired, 1 events unparked\n"
    make_readable(database_url, 7)
    (outcome,) = tools.follows("parked", "retry", "--all", "--json").json
    assert outcome == {"subject": 3, "object": 4, "unparked": 1, "error": None}
    assert tools.follows("parked").out == "nothing is parked\n" == tools.follows("parked", "retry", "--all").out
    assert tools.follows("verify").code == 0


def test_skipped_event_is_left_out_and_the_reason_is_kept(tools: Tools) -> None:
    done = tools.follows("parked", "skip", 7, "--who", "kim", "--reason", "a typo")
    assert (done.code, done.out) == (0, "#3 and #4: repaired, 0 events unparked\n")
    assert len(tools.follows("parked").out.splitlines()) == 1
    assert tools.follows("parked", "--skipped").out.splitlines()[1].endswith("; skipped by kim: a typo")
    assert tools.follows("parked", "skip", 7, "--reason", "again").code == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("retry",), 2),
        (("retry", 6, "--all"), 2),
        (("skip", 6), 2),
        (("retry", 5), 1),
        (("skip", 99, "--reason", "x"), 1),
    ],
)
def test_wrong_arguments_change_nothing(tools: Tools, words: tuple[object, ...], code: int) -> None:
    """Contradicting options are wrong usage; a position that is not parked is an error."""
    assert tools.follows("parked", *words).code == code

    async def count(engine: Engine, _: RedisClient) -> int:
        return len(await parked.read_parked(engine))

    assert tools.prepare(count) == 2
