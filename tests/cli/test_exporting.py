"""`follows export`: what it writes can be imported, and gives the same log again."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from commands import folds, log
from commands.census import last_number
from commands.directory import Directory, profiles
from commands.events import NotificationsChanged, UserFollowed
from commands.postgres import Engine, PostgresSettings, create_engine
from commands.users import UserChanges
from projections.store import Store
from tests.cli.tooling import Tools, tools_on
from tests.commands.writing import append
from tests.projections.worlds import populate
from tests.servers import Servers, fresh_database

PROFILES = {
    "u1": UserChanges(display_name='A "quoted", name', bio="two\nlines", views=3, partner=True, delay=0),
    "u5": UserChanges(email="u5@example.com", mature=False, avatar_url=None, status="null", game="Schach ♟"),
}


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A world of twelve users, one of them erased, two with profiles."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, _: Store) -> None:
        numbers = await populate(engine)
        users = Directory(engine)
        for id_, changes in PROFILES.items():
            await users.put(id_, changes)
        await append(engine, numbers[6], numbers[7], UserFollowed(), NotificationsChanged(True, 1_234_567_890_123_456))

    found.prepare(work)
    return found


def everything(url: str) -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
    """The users' rows as an import sets them, and id pair -> score of the follows now."""

    async def read() -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
        engine = create_engine(PostgresSettings(url))
        try:
            rows = await profiles(engine, list(range(1, await last_number(engine) + 1)))
            names = {number: row.id for number, row in rows.items()}
            unlike = {"number": 0, "created_at": 0, "updated_at": 0, "broadcast": None, "last_broadcast_at": None}
            users = {
                row.id: {**{name: getattr(row, name) for name in row.__struct_fields__}, **unlike}
                for row in rows.values()
                if not row.erased
            }
            at = dict.fromkeys(rows, (await log.head(engine)).position)
            lists = await folds.entries(engine, "following", at)
            return users, {(names[n], names[o]): score for n, some in lists.items() for o, score in some.items()}
        finally:
            await engine.dispose()

    return asyncio.run(read())


@pytest.mark.parametrize(("users", "follows"), [("u.ndjson", "f.csv.gz"), ("u.csv.gz", "f.ndjson")])
def test_an_export_imported_elsewhere_gives_the_same_users_and_follows(
    tools: Tools, servers: Servers, tmp_path: Path, users: str, follows: str
) -> None:
    """With every field, time and flag; and importing it where it came from changes nothing."""
    said = tools.follows("export", "users", "-o", tmp_path / users)
    assert said.code == 0 and said.err.endswith(f"wrote 11 users to {tmp_path / users}\n")
    assert tools.follows("export", "follows", "-o", tmp_path / follows).code == 0
    here = tools.environment["DATABASE_URL"]
    before = everything(here)
    with fresh_database(servers) as there:
        for url in (there, here):
            for kind, file in (("users", users), ("follows", follows)):
                done = tools.follows("import", kind, "--strict", "--database-url", url, tmp_path / file)
                assert done.code == 0, done
        assert everything(there) == before
    assert everything(here) == before
    assert "0 added" in done.out


def test_the_past_is_exported_too(tools: Tools) -> None:
    """At position 0 nothing but the names of the columns; at the end what there is now."""
    columns = "follower,followed,created_at,notifications\n"
    assert tools.follows("export", "follows", "--as-of", 0).out == columns
    now = tools.follows("export", "follows").out
    assert now.startswith(columns) and now.count("\n") > 20 and ",u12," not in now
    middle = tools.follows("export", "follows", "--as-of", 40, "--format", "ndjson")
    assert 0 < len(middle.objects) < now.count("\n") and not any("u12" in one.values() for one in middle.objects)
    assert set(middle.objects[0]) == {"follower", "followed", "created_at", "notifications"}
    assert tools.follows("export", "follows", "--as-of", 10**6).code == 1


def test_users_on_standard_output(tools: Tools) -> None:
    done = tools.really("export", "users", "-o", "-", "--format", "ndjson")
    found = {one["id"]: one for one in done.objects}
    assert "u12" not in found and len(found) == 11 and done.err == ""
    assert found["u2"] == {"id": "u2", "username": "second", "display_name": "U2", "bio": "renamed"}
    assert found["u5"]["status"] == "null" and "avatar_url" not in found["u5"]


def test_a_file_is_there_whole_or_not_at_all(tools: Tools, tmp_path: Path) -> None:
    """An export that fails leaves what was there before, and nothing beside it."""
    file = tmp_path / "follows.csv.gz"
    assert tools.follows("export", "follows", "-o", file).code == 0
    whole = file.read_bytes()
    assert gzip.decompress(whole).count(b"\n") > 20
    broken = {**tools.environment, "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x"}
    done = Tools(broken).follows("export", "follows", "-o", file)
    assert done.code == 1 and done.err.startswith("follows: PostgreSQL cannot be used")
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["follows.csv.gz"]
    assert file.read_bytes() == whole
    assert tools.follows("export", "users", "-o", tmp_path / "no" / "folder.csv").err.startswith(
        "follows: No such file"
    )


def test_a_reader_who_has_seen_enough(tools: Tools) -> None:
    """`follows export users | head -1` ends without a word."""
    process = tools.start("export", "follows", "--format", "ndjson")
    assert process.stdout is not None and process.stderr is not None
    assert set(json.loads(process.stdout.readline())) == {"follower", "followed", "created_at", "notifications"}
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() in (0, 141)  # 0 if all of it was in the pipe already; test_main has the certain case
