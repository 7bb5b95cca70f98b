"""The bulk import of users: it registers new users, changes those that differ, and refuses bad lines."""

from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest

from commands.bulk_follows import BadLine, ImportConnection, ImportResult, connect_import
from commands.bulk_users import ImportedUser, import_users
from commands.db.postgres import Engine, PostgresSettings
from commands.directory import Directory
from commands.events import ProfileChanged, UserRegistered
from commands.profiles import read_profiles, released_logins
from commands.users import ID_IN_WORDS, Profile, UserChanges
from tests.support.log_writes import empty, everything, register, rows

Sql = psycopg.Connection[Any]


@pytest.fixture
def opened(database_url: str) -> Iterator[ImportConnection]:
    """Open the connection of an import."""
    with connect_import(PostgresSettings(database_url, allow_async_commit=True)) as connection:
        yield connection


def user_rows(*users: tuple[str, dict[str, Any]]) -> list[ImportedUser]:
    """Return rows of these ids and changes, from line 1."""
    return [
        ImportedUser(line, id_, msgspec.convert(fields, UserChanges)) for line, (id_, fields) in enumerate(users, 1)
    ]


async def test_import_equals_single_calls(engine: Engine, opened: ImportConnection, sql: Sql) -> None:
    """But for the times."""
    steps = [
        user_rows(("a", {"username": "Anna", "bio": "hello"}), ("b", {}), ("c", {"display_name": "Zoë ✓"})),
        user_rows(("a", {"bio": None, "views": 5}), ("b", {"username": "Bert"}), ("d", {"partner": True})),
    ]
    for step in steps:
        import_users(opened, step)
    imported = await _everybody(engine)
    empty(sql)
    for row in (row for step in steps for row in step):
        await Directory(engine).put(row.id, row.changes)
    assert imported == await _everybody(engine)
    assert len(imported) == 4


async def _everybody(engine: Engine) -> list[Profile]:
    found = await read_profiles(engine, range(1, 10))
    return [msgspec.structs.replace(found[number], created_at=0, updated_at=0) for number in sorted(found)]


async def test_import_appends_one_event_per_new_or_changed_user(engine: Engine, opened: ImportConnection) -> None:
    """In the order of the rows."""
    first = import_users(opened, user_rows(("a", {"bio": "x"}), ("b", {"bio": "x"})))
    second = import_users(opened, user_rows(("c", {}), ("b", {"bio": "y"}), ("a", {"bio": "x"})))
    again = import_users(opened, user_rows(("c", {}), ("b", {"bio": "y"}), ("a", {"bio": "x"})))
    log = await everything(engine)
    assert [type(event.event) for event in log] == [UserRegistered, UserRegistered, UserRegistered, ProfileChanged]
    assert [event.subject for event in log[2:]] == [await Directory(engine).number(id_) for id_ in ("c", "b")]
    assert (first, second) == (ImportResult(2, 0, 0, [], log[1].position), ImportResult(1, 1, 1, [], log[3].position))
    assert again == ImportResult(0, 0, 3, [], None)


@pytest.mark.parametrize(
    "fields",
    [{"username": "Same"}, {"display_name": "Same"}, {"bio": None}, {"views": 3}, {"is_available": False}, {}],
    ids=lambda fields: next(iter(fields), "nothing"),
)
async def test_repeated_import_of_any_field_changes_nothing(
    engine: Engine, opened: ImportConnection, fields: dict[str, Any]
) -> None:
    import_users(opened, user_rows(("a", {"username": "Other", "views": 7}), ("b", {})))
    import_users(opened, user_rows(("a", fields)))
    before = await everything(engine)
    assert import_users(opened, user_rows(("a", fields), ("b", {}))) == ImportResult(0, 0, 2, [], None)
    assert await everything(engine) == before


async def test_username_of_another_user_or_earlier_line_is_refused(engine: Engine, opened: ImportConnection) -> None:
    """In upper or lower case; its owner may send it again."""
    await register(engine, "holder")
    outcome = import_users(
        opened,
        user_rows(
            ("x", {"username": "Holder"}),
            ("holder", {"username": "HOLDER"}),
            ("y", {"username": "new"}),
            ("z", {"username": "NEW"}),
            ("new", {}),
        ),
    )
    taken = [BadLine(1, "the username 'Holder' is taken"), BadLine(4, "the username 'NEW' is taken")]
    assert outcome[:4] == (2, 0, 1, taken)
    found = await Directory(engine).find_login("new")
    assert found is not None and found.id == "y"


async def test_taken_default_login_becomes_a_spare_one(opened: ImportConnection, sql: Sql) -> None:
    outcome = import_users(opened, user_rows(("Anna", {}), ("anna", {}), ("ANNA", {"display_name": "Third"})))
    assert outcome[:4] == (3, 0, 0, [])
    logins: dict[str, str] = dict(rows(sql, "SELECT id, login FROM users"))
    assert logins["Anna"] == "anna"
    assert logins["anna"].startswith("user_")
    assert logins["ANNA"].startswith("user_")


async def test_rename_releases_old_login(engine: Engine, opened: ImportConnection) -> None:
    """The projection finds it as a key to delete, and the next batch may use it."""
    import_users(opened, user_rows(("a", {"username": "old"}), ("b", {})))
    import_users(opened, user_rows(("a", {"username": "fresh", "bio": "x"}), ("b", {"bio": "x"})))
    number = await Directory(engine).number("a")
    assert await released_logins(engine, [number, await Directory(engine).number("b")]) == [(number, "old")]
    assert import_users(opened, user_rows(("c", {"username": "old"}))).added == 1


async def test_import_of_erased_user_is_refused(engine: Engine, opened: ImportConnection) -> None:
    await register(engine, "gone")
    await Directory(engine).erase("gone")
    outcome = import_users(opened, user_rows(("gone", {"bio": "again"}), ("a", {})))
    assert outcome[:4] == (1, 0, 0, [BadLine(1, "user 'gone' was erased")])


async def test_lines_of_one_id_are_imported_in_order(engine: Engine, opened: ImportConnection) -> None:
    """Also within one batch."""
    outcome = import_users(
        opened, user_rows(("a", {"bio": "1", "game": "chess"}), ("b", {}), ("a", {"bio": "2"}), ("a", {"bio": "2"}))
    )
    number = await Directory(engine).number("a")
    profile = (await read_profiles(engine, [number]))[number]
    assert outcome[:4] == (2, 1, 1, [])
    assert (profile.bio, profile.game) == ("2", "chess")


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no id": ("a b", {}, f"'a b' is not a user id: {ID_IN_WORDS}"),
    "newline in id": ("a\n", {}, f"'a\\n' is not a user id: {ID_IN_WORDS}"),
    "id of a route": ("me", {}, f"'me' is not a user id: {ID_IN_WORDS}"),
    "login of a route": ("a", {"username": "Followed"}, "the username 'Followed' is taken"),
    "NUL": ("a", {"bio": "x\0"}, "bio is not valid text"),
    "not UTF-8": ("a", {"display_name": "x\udcff"}, "display_name is not valid text"),
    "taken": ("a", {"username": "holder"}, "the username 'holder' is taken"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("strict", [False, True])
async def test_bad_line_is_reported_and_others_imported(
    engine: Engine, opened: ImportConnection, case: str, strict: bool
) -> None:
    """With ``strict`` only the lines before it."""
    await register(engine, "holder")
    id_, fields, reason = BAD[case]
    people = user_rows(("before", {}), (id_, fields), ("behind", {}), (id_, fields))
    outcome = import_users(opened, people, strict=strict)
    assert outcome.bad == [BadLine(2, reason)] if strict else [BadLine(2, reason), BadLine(4, reason)]
    assert outcome[:3] == (1 if strict else 2, 0, 0)
    assert (await Directory(engine).find("behind") is None) is strict
