"""`follows parked`: showing what the views do not hold, trying it again, leaving it out."""

from pathlib import Path

import psycopg
import pytest

from commands import parking
from commands.events import UserFollowed
from commands.postgres import Engine
from projections.store import Store
from tests.cli.tooling import Tools, tools_on
from tests.commands.writing import append, register
from tests.projections.worlds import viewed

UNREADABLE = """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
VALUES (nextval('events_position'), %s, %s, 1, 'UserFollowed', next_recorded_at(), '{"notifications": 5}')"""


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Five users; the events at positions 6 and 7 cannot be read, and are parked."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, store: Store) -> None:
        await register(engine, "a", "b", "c", "d", "e")
        with psycopg.connect(database_url, autocommit=True) as sql:
            for pair in ((1, 2), (3, 4)):
                sql.execute(UNREADABLE, pair)
        await append(engine, 1, 3, UserFollowed())
        await viewed(engine, store)

    found.prepare(work)
    return found


def make_readable(database_url: str, position: int) -> None:
    """As a new version of the code does."""
    with psycopg.connect(database_url, autocommit=True) as sql:
        sql.execute("SET session_replication_role = replica")
        sql.execute("UPDATE events SET data = NULL WHERE position = %s", [position])


def test_what_is_parked_is_shown(tools: Tools) -> None:
    """With its pair, since when, and why; `status` counts it."""
    lines = tools.really("parked").out.splitlines()
    assert len(lines) == 2 and lines == tools.follows("parked", "list").out.splitlines()
    assert lines[0].startswith("         6  20") and "  #1 and #2: UserFollowed cannot be read: " in lines[0]
    rows = tools.follows("parked", "--json").json
    assert [(row["position"], row["subject"], row["object"]) for row in rows] == [(6, 1, 2), (7, 3, 4)]
    assert tools.follows("status", "--json").json["parked"] == 2


def test_what_can_be_read_now_is_let_go(tools: Tools, database_url: str) -> None:
    """And what cannot is told of, with exit code 1."""
    done = tools.follows("parked", "retry", "--all")
    assert done.code == 1 and "#1 and #2: position 6: UserFollowed cannot be read" in done.out
    make_readable(database_url, 6)
    assert tools.follows("parked", "retry", 6).out == "#1 and #2: mended, 1 events let go\n"
    make_readable(database_url, 7)
    (outcome,) = tools.follows("parked", "retry", "--all", "--json").json
    assert outcome == {"subject": 3, "object": 4, "let_go": 1, "error": None}
    assert tools.follows("parked").out == "nothing is parked\n" == tools.follows("parked", "retry", "--all").out
    assert tools.follows("verify").code == 0


def test_what_never_will_be_is_left_out(tools: Tools) -> None:
    """On somebody's word, which is kept."""
    done = tools.follows("parked", "skip", 7, "--who", "kim", "--reason", "a typo")
    assert (done.code, done.out) == (0, "#3 and #4: mended, 0 events let go\n")
    assert len(tools.follows("parked").out.splitlines()) == 1
    assert tools.follows("parked", "--skipped").out.splitlines()[1].endswith("; left out by kim: a typo")
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
def test_what_makes_no_sense_is_refused(tools: Tools, words: tuple[object, ...], code: int) -> None:
    """Neither words that contradict nor positions that are not parked do anything."""
    assert tools.follows("parked", *words).code == code

    async def count(engine: Engine, _: Store) -> int:
        return len(await parking.parked(engine))

    assert tools.prepare(count) == 2
