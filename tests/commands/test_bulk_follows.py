"""The bulk import of follows: it appends the events of single commands, and refuses bad lines."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.bulk_follows import (
    BadLine,
    ImportConnection,
    ImportedFollow,
    ImportResult,
    connect_import,
    import_follows,
)
from commands.db.postgres import Engine, PostgresSettings
from commands.decide import EnsureFollow
from commands.directory import Directory
from commands.erasure import end_some_follows
from commands.errors import LogUnavailable
from commands.events import NotificationsChanged, UserFollowed, UserUnfollowed, encode
from commands.group_commit import Receipt
from commands.users import ID_IN_WORDS, UserChanges
from tests.support.fixtures import few
from tests.support.log_writes import append, committing, empty, everything, locked_log, register, rows

AT = 1_600_000_000_000_000
Sql = psycopg.Connection[Any]


@pytest.fixture
def opened(database_url: str) -> Iterator[ImportConnection]:
    """Open the connection of an import."""
    with connect_import(PostgresSettings(database_url, allow_async_commit=True)) as connection:
        yield connection


def follow_rows(*pairs: str, line: int = 1) -> list[ImportedFollow]:
    """Return rows from "follower>followed" texts."""
    halves = (pair.partition(">") for pair in pairs)
    return [ImportedFollow(number, follower, followed) for number, (follower, _, followed) in enumerate(halves, line)]


async def test_import_appends_events_in_order_of_rows(engine: Engine, opened: ImportConnection) -> None:
    """Each event is the one that a command would have made."""
    a, b, c = await register(engine, "a", "b", "c")
    given_rows = [
        ImportedFollow(2, "c", "a"),
        ImportedFollow(3, "a", "b", AT, True),
        ImportedFollow(4, "b", "a", None, True),
    ]
    outcome = import_follows(opened, [*given_rows, ImportedFollow(5, "a", "c", AT)])
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
    assert outcome == ImportResult(4, 0, 0, [], found[-1].position)


async def test_imported_data_equals_the_codecs(engine: Engine, opened: ImportConnection, sql: Sql) -> None:
    """The column holds the same JSON, or the same NULL, as for an event appended alone."""
    await register(engine, "a", "b", "c", "d", "e")
    events = [UserFollowed(flag, at) for flag in (False, True) for at in (None, AT)]
    for line, (followed, event) in enumerate(zip("bcde", events, strict=True), 1):
        import_follows(opened, [ImportedFollow(line, "a", followed, event.created_at, event.notifications)])
    written = rows(sql, "SELECT type::text, data::text FROM events WHERE subject <> object ORDER BY position")
    encoded = [encode(event) for event in events]
    same = [sql.execute("SELECT %s::jsonb::text", [data]).fetchone() for _, data in encoded]
    assert written == [(name, text[0] if text else None) for (name, _), text in zip(encoded, same, strict=True)]


async def test_repeated_import_changes_nothing(engine: Engine, opened: ImportConnection) -> None:
    await register(engine, "a", "b", "c")
    import_follows(opened, follow_rows("a>b", "b>c"))
    before = await everything(engine)
    assert import_follows(opened, follow_rows("a>b", "b>c")) == ImportResult(0, 0, 2, [], None)
    assert await everything(engine) == before


async def test_import_begins_ended_follow_again_and_keeps_existing_one(
    engine: Engine, opened: ImportConnection
) -> None:
    """An existing one with other notifications stays as it is, too."""
    a, b, c = await register(engine, "a", "b", "c")
    await append(engine, a, b, UserFollowed(), UserUnfollowed())
    await append(engine, a, c, UserFollowed(), NotificationsChanged(True, AT))
    outcome = import_follows(opened, follow_rows("a>b", "a>c"))
    last = (await everything(engine))[-1]
    assert outcome[:3] == (1, 0, 1)
    assert (last.subject, last.object, last.version, last.event) == (a, b, 3, UserFollowed())


async def test_first_of_equal_rows_is_imported(engine: Engine, opened: ImportConnection) -> None:
    await register(engine, "a", "b")
    outcome = import_follows(
        opened, [ImportedFollow(1, "a", "b", AT), ImportedFollow(2, "a", "b", AT + 1), ImportedFollow(3, "a", "b")]
    )
    assert outcome[:3] == (1, 0, 2)
    assert (await everything(engine))[-1].event == UserFollowed(created_at=AT)


async def test_bad_lines_are_reported_with_reason_and_others_imported(engine: Engine, opened: ImportConnection) -> None:
    await register(engine, "a", "b", "gone")
    await Directory(engine).erase("gone")
    pairs = ("a>b", "a>x", "y>a", "a>a", "a>gone", "gone>a", "a>b c", "a>" + "n" * 129, "a>b\n", "a>\0", "a>", "b>a")
    outcome = import_follows(opened, follow_rows(*pairs))
    not_an_id = f"is not a user id: {ID_IN_WORDS}"
    assert outcome.bad == [
        BadLine(2, "unknown user 'x'"),
        BadLine(3, "unknown user 'y'"),
        BadLine(4, "user 'a' cannot follow himself"),
        BadLine(5, "user 'gone' was erased"),
        BadLine(6, "user 'gone' was erased"),
        BadLine(7, f"'b c' {not_an_id}"),
        BadLine(8, f"'{'n' * 128}...' {not_an_id}"),
        BadLine(9, f"'b\\n' {not_an_id}"),
        BadLine(10, f"'\\x00' {not_an_id}"),
        BadLine(11, f"'' {not_an_id}"),
    ]
    assert outcome[:3] == (2, 0, 0)


async def test_strict_import_stops_before_first_bad_row(engine: Engine, opened: ImportConnection) -> None:
    """Later rows are neither appended nor registered."""
    await register(engine, "a", "b")
    pairs = follow_rows("a>new", "b>a", "a>a", "a>later")
    outcome = import_follows(opened, pairs, create_users=True, strict=True)
    assert outcome[:4] == (2, 0, 0, [BadLine(3, "user 'a' cannot follow himself")])
    assert await Directory(engine).find("new") is not None
    assert await Directory(engine).find("later") is None


async def test_unknown_users_are_created_on_request(engine: Engine, opened: ImportConnection, sql: Sql) -> None:
    """With the login that their first command would have given them."""
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


async def test_user_erased_after_lookup_gets_no_follow(engine: Engine, opened: ImportConnection) -> None:
    """The import notices that under the log's lock, and looks the number up again from then on."""
    await register(engine, "a", "b", "gone")
    import_follows(opened, follow_rows("gone>a", "b>gone"))
    assert "gone" in opened.numbers
    await Directory(engine).erase("gone")
    first = import_follows(opened, follow_rows("a>gone", "a>b"))
    assert first[:4] == (1, 0, 0, [BadLine(1, "user 'a' or 'gone' was erased")])
    assert import_follows(opened, follow_rows("a>gone")).bad == [BadLine(1, "user 'gone' was erased")]


async def test_user_registered_again_can_be_followed(engine: Engine, opened: ImportConnection) -> None:
    _, number = await register(engine, "a", "back")
    import_follows(opened, follow_rows("a>back"))
    await Directory(engine).erase("back")
    while not (await end_some_follows(engine, number))[1]:
        pass
    assert import_follows(opened, follow_rows("a>back")).added == 0
    await Directory(engine).put("back", UserChanges())
    assert import_follows(opened, follow_rows("a>back")).added == 1


async def test_import_racing_live_commands_appends_each_follow_once(
    engine: Engine, database_url: str, sql: Sql
) -> None:
    names = [f"u{number}" for number in range(20)]
    numbers = await register(engine, *names)
    pairs = [(a, b) for a in range(20) for b in range(20) if a != b]
    outcomes: list[ImportResult] = []

    def run() -> None:
        with connect_import(PostgresSettings(database_url, allow_async_commit=True)) as connection:
            for start in range(0, len(pairs), 20):
                batch = [ImportedFollow(1, names[a], names[b]) for a, b in pairs[start : start + 20]]
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


def test_import_while_lock_is_held_is_unavailable_and_may_be_repeated(database_url: str) -> None:
    settings = PostgresSettings(database_url, allow_async_commit=True)
    pairs = follow_rows("a>b")
    with connect_import(settings) as connection:
        import_follows(connection, follow_rows("a>c", "b>c"), create_users=True)
    refused = pytest.raises(LogUnavailable)
    with locked_log(database_url), refused, connect_import(settings, lock_timeout_ms=50) as connection:
        import_follows(connection, pairs)
    with connect_import(settings) as connection:
        assert import_follows(connection, pairs).added == 1


def test_import_without_postgres_is_unavailable() -> None:
    settings = PostgresSettings("postgresql://postgres@127.0.0.1:1/follows", allow_async_commit=True)
    with pytest.raises(LogUnavailable), connect_import(settings):
        pass


def test_import_into_read_only_database_is_unavailable(database_url: str, sql: Sql) -> None:
    """Such as a replica; another server may take the writes soon."""
    with connect_import(PostgresSettings(database_url, allow_async_commit=True)) as connection:
        import_follows(connection, follow_rows("a>b"), create_users=True)
    name = rows(sql, "SELECT current_database()")[0][0]
    sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    refused = pytest.raises(LogUnavailable, match="takes no writes")
    with refused, connect_import(PostgresSettings(database_url, allow_async_commit=True)) as connection:
        import_follows(connection, follow_rows("b>a"))


def test_import_caches_a_limited_number_of_numbers(database_url: str) -> None:
    """The oldest are evicted first, and looked up again when needed."""
    with connect_import(PostgresSettings(database_url, allow_async_commit=True), numbers_max=3) as opened:
        for _ in range(2):
            for number in range(0, 10, 2):
                import_follows(opened, follow_rows(f"u{number}>u{number + 1}"), create_users=True)
                assert len(opened.numbers) <= 3 + 2
        assert import_follows(opened, follow_rows("u0>u1")) == ImportResult(0, 0, 1, [], None)


names = st.sampled_from(["a", "b", "c", "unknown", "no id"])
some_rows = st.lists(st.tuples(names, names, st.sampled_from([None, AT]), st.booleans()), max_size=12)


@few
@given(batches=st.lists(some_rows, min_size=1, max_size=4))
async def test_random_imports_agree_with_a_set_of_pairs(
    engine: Engine, sql: Sql, opened: ImportConnection, batches: list[list[tuple[str, str, int | None, bool]]]
) -> None:
    empty(sql)
    opened.numbers.clear()
    await register(engine, "a", "b", "c")
    pairs: set[tuple[str, str]] = set()
    for batch in batches:
        usable = [(a, b) for a, b, _, _ in batch if a != b and {a, b} <= {"a", "b", "c"}]
        outcome = import_follows(opened, [ImportedFollow(line, *row) for line, row in enumerate(batch, 1)])
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
