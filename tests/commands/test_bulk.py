"""The bulk import of follows: what it appends, what it refuses, and that nobody could tell it from single commands."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import bulk as bulk_module
from commands.bulk import BadLine, Bulk, FollowRow, Outcome, bulk, import_follows
from commands.committer import Receipt
from commands.decide import EnsureFollow
from commands.directory import Directory
from commands.erasure import end_some_follows
from commands.errors import LogUnavailable, SettingsError
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed, encode
from commands.postgres import Engine, PostgresSettings
from commands.users import UserChanges
from tests.commands.writing import append, committing, empty, everything, locked_log, register, rows
from tests.opened import few

AT = 1_600_000_000_000_000
Sql = psycopg.Connection[Any]


@pytest.fixture
def opened(database_url: str) -> Iterator[Bulk]:
    """The connection of an import."""
    with bulk(PostgresSettings(database_url)) as connection:
        yield connection


def follow_rows(*pairs: str, line: int = 1) -> list[FollowRow]:
    """Rows from "follower>followed"."""
    halves = (pair.partition(">") for pair in pairs)
    return [FollowRow(number, follower, followed) for number, (follower, _, followed) in enumerate(halves, line)]


async def test_appends_in_the_order_of_the_rows(engine: Engine, opened: Bulk) -> None:
    """Positions and times rise with the rows, and each event is the one that a command would have made."""
    a, b, c = await register(engine, "a", "b", "c")
    given_rows = [FollowRow(2, "c", "a"), FollowRow(3, "a", "b", AT, True), FollowRow(4, "b", "a", None, True)]
    outcome = import_follows(opened, [*given_rows, FollowRow(5, "a", "c", AT)])
    found = (await everything(engine))[3:]
    assert [(event.subject, event.object, event.version) for event in found] == [
        *((c, a, 1), (a, b, 1), (b, a, 1), (a, c, 1))
    ]
    assert [event.event for event in found] == [
        UserFollowed(),
        UserFollowed(notifications=True, created_at=AT),
        UserFollowed(notifications=True),
        UserFollowed(created_at=AT),
    ]
    times = [event.recorded_at for event in await everything(engine)]
    assert times == sorted(set(times))
    assert outcome == Outcome(4, 0, 0, [], found[-1].position)


async def test_data_is_what_the_codec_writes(engine: Engine, opened: Bulk, sql: Sql) -> None:
    """The column holds the same JSON, or the same NULL, as for an event that was appended singly."""
    await register(engine, "a", "b", "c", "d", "e")
    events = [UserFollowed(flag, at) for flag in (False, True) for at in (None, AT)]
    for line, (followed, event) in enumerate(zip("bcde", events, strict=True), 1):
        import_follows(opened, [FollowRow(line, "a", followed, event.created_at, event.notifications)])
    written = rows(sql, "SELECT type::text, data::text FROM events WHERE subject <> object ORDER BY position")
    encoded = [encode(event) for event in events]
    same = [sql.execute("SELECT %s::jsonb::text", [data]).fetchone() for _, data in encoded]
    assert written == [(name, text[0] if text else None) for (name, _), text in zip(encoded, same, strict=True)]


async def test_again_changes_nothing(engine: Engine, opened: Bulk) -> None:
    """A second import of the same rows finds all of them there."""
    await register(engine, "a", "b", "c")
    import_follows(opened, follow_rows("a>b", "b>c"))
    before = await everything(engine)
    assert import_follows(opened, follow_rows("a>b", "b>c")) == Outcome(0, 0, 2, [], None)
    assert await everything(engine) == before


async def test_the_newest_event_decides(engine: Engine, opened: Bulk) -> None:
    """An ended follow begins again as the pair's next version; one with other notifications stays as it is."""
    a, b, c = await register(engine, "a", "b", "c")
    await append(engine, a, b, UserFollowed(), UserUnfollowed())
    await append(engine, a, c, UserFollowed(), NotificationsChanged(True, AT))
    outcome = import_follows(opened, follow_rows("a>b", "a>c"))
    last = (await everything(engine))[-1]
    assert outcome[:3] == (1, 0, 1)
    assert (last.subject, last.object, last.version, last.event) == (a, b, 3, UserFollowed())


async def test_the_first_of_equal_rows_counts(engine: Engine, opened: Bulk) -> None:
    """Within a batch, too, a follow that is there stays as it is."""
    await register(engine, "a", "b")
    outcome = import_follows(
        opened, [FollowRow(1, "a", "b", AT), FollowRow(2, "a", "b", AT + 1), FollowRow(3, "a", "b")]
    )
    assert outcome[:3] == (1, 0, 2)
    assert (await everything(engine))[-1].event == UserFollowed(created_at=AT)


async def test_bad_lines_say_why(engine: Engine, opened: Bulk) -> None:
    """Each bad row is named with its line and reason; the others go in."""
    await register(engine, "a", "b", "gone")
    await Directory(engine).erase("gone")
    pairs = ("a>b", "a>x", "y>a", "a>a", "a>gone", "gone>a", "a>b c", "a>" + "n" * 70, "a>b\n", "a>\0", "a>", "b>a")
    outcome = import_follows(opened, follow_rows(*pairs))
    not_an_id = "is not a user id: 1 to 64 of 0-9 A-Z a-z _ -"
    assert outcome.bad == [
        BadLine(2, "unknown user 'x'"),
        BadLine(3, "unknown user 'y'"),
        BadLine(4, "user 'a' cannot follow himself"),
        BadLine(5, "user 'gone' was erased"),
        BadLine(6, "user 'gone' was erased"),
        BadLine(7, f"'b c' {not_an_id}"),
        BadLine(8, f"'{'n' * 70}' {not_an_id}"),
        BadLine(9, f"'b\\n' {not_an_id}"),
        BadLine(10, f"'\\x00' {not_an_id}"),
        BadLine(11, f"'' {not_an_id}"),
    ]
    assert outcome[:3] == (2, 0, 0)


async def test_strict_stops_before_the_first_bad_row(engine: Engine, opened: Bulk) -> None:
    """What stands behind it is neither appended nor registered."""
    await register(engine, "a", "b")
    pairs = follow_rows("a>new", "b>a", "a>a", "a>later")
    outcome = import_follows(opened, pairs, create_users=True, strict=True)
    assert outcome[:4] == (2, 0, 0, [BadLine(3, "user 'a' cannot follow himself")])
    assert await Directory(engine).find("new") is not None
    assert await Directory(engine).find("later") is None


async def test_creates_users(engine: Engine, opened: Bulk, sql: Sql) -> None:
    """Unknown ids become users with the login that a first command would have given them."""
    await register(engine, "taken")
    sql.execute("UPDATE users SET login = 'other' WHERE id = 'taken'")
    outcome = import_follows(opened, follow_rows("Bob>bob", "bob>OTHER", "taken>Bob"), create_users=True)
    assert outcome[:4] == (3, 0, 0, [])
    logins: dict[str, str] = dict(rows(sql, "SELECT id, login FROM users ORDER BY number"))
    assert list(logins) == ["taken", "Bob", "bob", "OTHER"]
    assert logins["Bob"] == "bob"
    assert logins["bob"].startswith("user_")
    assert logins["OTHER"].startswith("user_")
    assert rows(sql, "SELECT count(*) FROM events WHERE type = 'UserRegistered'") == [(4,)]
    assert rows(sql, "SELECT display_name FROM users WHERE id = 'Bob'") == [("Bob",)]


async def test_a_user_erased_after_the_look_up_gets_no_follow(engine: Engine, opened: Bulk) -> None:
    """The erasure is noticed under the log's lock, and the number is looked up anew from then on."""
    await register(engine, "a", "b", "gone")
    import_follows(opened, follow_rows("gone>a", "b>gone"))
    assert "gone" in opened.numbers
    await Directory(engine).erase("gone")
    first = import_follows(opened, follow_rows("a>gone", "a>b"))
    assert first[:4] == (1, 0, 0, [BadLine(1, "user 'a' or 'gone' was erased")])
    assert import_follows(opened, follow_rows("a>gone")).bad == [BadLine(1, "user 'gone' was erased")]


async def test_a_revived_user_can_be_followed(engine: Engine, opened: Bulk) -> None:
    """What counts is whether the id is erased now."""
    _, number = await register(engine, "a", "back")
    import_follows(opened, follow_rows("a>back"))
    await Directory(engine).erase("back")
    while not (await end_some_follows(engine, number))[1]:
        pass
    assert import_follows(opened, follow_rows("a>back")).added == 0
    await Directory(engine).put("back", UserChanges())
    assert import_follows(opened, follow_rows("a>back")).added == 1


async def test_races_with_live_commands_append_each_follow_once(engine: Engine, database_url: str, sql: Sql) -> None:
    """While callers follow the same pairs one by one, no pair gets a second UserFollowed."""
    names = [f"u{number}" for number in range(20)]
    numbers = await register(engine, *names)
    pairs = [(a, b) for a in range(20) for b in range(20) if a != b]
    outcomes: list[Outcome] = []

    def run() -> None:
        with bulk(PostgresSettings(database_url)) as connection:
            for start in range(0, len(pairs), 20):
                batch = [FollowRow(1, names[a], names[b]) for a, b in pairs[start : start + 20]]
                outcomes.append(import_follows(connection, batch))

    importing = threading.Thread(target=run)
    async with committing(engine) as committer:
        importing.start()
        receipts: list[Receipt] = []
        for a, b in reversed(pairs):
            receipts.append(await committer.send(EnsureFollow(numbers[a], numbers[b])))
    importing.join()
    found = rows(sql, "SELECT type::text, version FROM events WHERE subject <> object")
    assert found == [("UserFollowed", 1)] * len(pairs)
    assert len(receipts) == sum(outcome.added + outcome.unchanged for outcome in outcomes) == len(pairs)


def test_waits_for_the_lock_of_the_log(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that does not come free in time is LogUnavailable; nothing was appended, the batch may be sent again."""
    monkeypatch.setattr(bulk_module, "LOCK_TIMEOUT_MS", 50)
    pairs = follow_rows("a>b")
    with bulk(PostgresSettings(database_url)) as connection:
        import_follows(connection, follow_rows("a>c", "b>c"), create_users=True)
    with locked_log(database_url), pytest.raises(LogUnavailable), bulk(PostgresSettings(database_url)) as connection:
        import_follows(connection, pairs)
    with bulk(PostgresSettings(database_url)) as connection:
        assert import_follows(connection, pairs).added == 1


def test_a_database_that_does_not_answer() -> None:
    """Is LogUnavailable, like everywhere."""
    settings = PostgresSettings("postgresql://postgres@127.0.0.1:1/follows")
    with pytest.raises(LogUnavailable), bulk(settings):
        pass


def test_a_database_that_may_not_be_written(database_url: str, sql: Sql) -> None:
    """A replica, or a role without the rights, is a matter of settings and said in PostgreSQL's words."""
    with bulk(PostgresSettings(database_url)) as connection:
        import_follows(connection, follow_rows("a>b"), create_users=True)
    name = rows(sql, "SELECT current_database()")[0][0]
    sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    refused = pytest.raises(SettingsError, match="read-only")
    with refused, bulk(PostgresSettings(database_url)) as connection:
        import_follows(connection, follow_rows("b>a"))


def test_the_numbers_remembered_are_bounded(opened: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; who was forgotten is looked up again."""
    monkeypatch.setattr(bulk_module, "CACHE_MAX", 3)
    for _ in range(2):
        for number in range(0, 10, 2):
            import_follows(opened, follow_rows(f"u{number}>u{number + 1}"), create_users=True)
            assert len(opened.numbers) <= 3 + 2
    assert import_follows(opened, follow_rows("u0>u1")) == Outcome(0, 0, 1, [], None)


names = st.sampled_from(["a", "b", "c", "unknown", "no id"])
some_rows = st.lists(st.tuples(names, names, st.sampled_from([None, AT]), st.booleans()), max_size=12)


@few
@given(batches=st.lists(some_rows, min_size=1, max_size=4))
async def test_agrees_with_a_set_of_pairs(
    engine: Engine, sql: Sql, opened: Bulk, batches: list[list[tuple[str, str, int | None, bool]]]
) -> None:
    """Whatever is imported in whatever batches, the counts and the pairs are those of a plain set."""
    empty(sql)
    opened.numbers.clear()
    await register(engine, "a", "b", "c")
    pairs: set[tuple[str, str]] = set()
    for batch in batches:
        usable = [(a, b) for a, b, _, _ in batch if a != b and {a, b} <= {"a", "b", "c"}]
        outcome = import_follows(opened, [FollowRow(line, *row) for line, row in enumerate(batch, 1)])
        added = len(set(usable) - pairs)
        pairs |= set(usable)
        assert outcome[:3] == (added, 0, len(usable) - added)
        assert len(outcome.bad) == len(batch) - len(usable)
    found = rows(
        sql,
        """SELECT f.id, g.id FROM events e JOIN users f ON f.number = e.subject JOIN users g ON g.number = e.object
        WHERE e.type = 'UserFollowed'""",
    )
    assert sorted(found) == sorted(pairs)
