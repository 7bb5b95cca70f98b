"""`follows export`: its files, and their import into another database."""

import asyncio
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.dev.processes import ROOT
from cli.export import csv_cell
from cli.import_files import csv_records, lines, open_import
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.directory import Directory
from commands.events import NotificationsChanged, UserFollowed
from commands.log import event_log as log
from commands.log import fold
from commands.log.user_search import last_number
from commands.profiles import read_profiles
from commands.users import UserChanges
from projections.client.client import RedisClient
from tests.support.cli_runner import Tools, tools_on
from tests.support.fixtures import many
from tests.support.log_writes import append
from tests.support.servers import Servers, fresh_database
from tests.support.small_world import populate

PROFILES = {
    "u1": UserChanges(display_name='A "quoted", name', bio="two\nlines", views=3, partner=True, delay=0),
    "u3": UserChanges(
        bio="one\rtwo\r\nthree\n",
        email="",
        status=' "',
        game=" =1+1\t",
        url="https://e.example/\ufeff \"?x='1'",
        views=0,
    ),
    "u4": UserChanges(
        bio="\n" * 4096, status='"' * 4096, banner="https://" + '"' * 2040, language="\r\n", display_name=" "
    ),
    "u5": UserChanges(email="u5@example.com", mature=False, avatar_url=None, status="null", game="Schach ♟"),
    "auth0|5f7c.a:b@c~d+e=-": UserChanges(display_name="from an identity provider"),
}


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A world of twelve users, one of them erased, two with profiles."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, _: RedisClient) -> None:
        numbers = await populate(engine)
        users = Directory(engine)
        for id_, changes in PROFILES.items():
            await users.put(id_, changes)
        await append(engine, await users.number("auth0|5f7c.a:b@c~d+e=-"), numbers[7], UserFollowed())
        await append(engine, numbers[6], numbers[7], UserFollowed(), NotificationsChanged(True, 1_234_567_890_123_456))

    found.prepare(work)
    return found


def everything(url: str) -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
    """Return id -> fields of the users as an import sets them, and pair of ids -> score of their follows."""

    async def read() -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
        engine = create_engine(PostgresSettings(url, allow_async_commit=True))
        try:
            rows = await read_profiles(engine, list(range(1, await last_number(engine) + 1)))
            names = {number: row.id for number, row in rows.items()}
            unlike = {"number": 0, "created_at": 0, "updated_at": 0, "broadcast": None, "last_broadcast_at": None}
            users = {
                row.id: {**{name: getattr(row, name) for name in row.__struct_fields__}, **unlike}
                for row in rows.values()
                if not row.erased
            }
            at = dict.fromkeys(rows, (await log.head(engine)).position)
            lists = await fold.read_entries(engine, "following", at)
            return users, {(names[n], names[o]): score for n, some in lists.items() for o, score in some.items()}
        finally:
            await engine.dispose()

    return asyncio.run(read())


@pytest.mark.parametrize(("users", "follows"), [("u.ndjson", "f.csv.gz"), ("u.csv.gz", "f.ndjson")])
def test_export_imported_into_another_database_gives_the_same_users_and_follows(
    tools: Tools, servers: Servers, tmp_path: Path, users: str, follows: str
) -> None:
    """Every field, time and flag is equal; importing it into its own database changes nothing."""
    said = tools.follows("export", "users", "-o", tmp_path / users)
    assert said.code == 0 and said.err.endswith(f"wrote 12 users to {tmp_path / users}\n")
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


def test_export_piped_into_an_import_changes_nothing(tools: Tools) -> None:
    """Line breaks and quotes of texts pass through standard output and input."""
    command, environment = [sys.executable, "-m", "cli"], dict(tools.environment)
    for form in ("csv", "ndjson"):
        export = [*command, "export", "users", "--format", form]
        written = subprocess.run(export, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        import_ = [*command, "import", "users", "-"]
        said = subprocess.run(
            import_, input=written, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True
        ).stdout
        assert b"0 added, 0 changed, 12 the same, 0 bad" in said


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.text('a,"\r\n \t\u2028\ufeff=')


@many
@given(rows=st.lists(st.tuples(texts.filter(bool), st.none() | texts, st.none() | texts), min_size=1))
def test_any_text_is_read_from_csv_as_it_was_written(rows: list[tuple[str | None, ...]]) -> None:
    """An empty text differs from an empty cell."""
    written = "".join(",".join(map(csv_cell, row)) + "\n" for row in rows)
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(b"\xef\xbb\xbf" + written.encode())
        file.flush()
        with open_import(file.name) as opened:
            assert [fields for _, fields in csv_records(lines(opened.text))] == [list(row) for row in rows]


def test_export_as_of_a_position_holds_the_follows_of_then(tools: Tools) -> None:
    """At position 0 only the names of the columns, at the end the follows of now."""
    columns = "follower,followed,created_at,notifications\n"
    assert tools.follows("export", "follows", "--as-of", 0).out == columns
    now = tools.follows("export", "follows").out
    assert now.startswith(columns) and now.count("\n") > 20 and ",u12," not in now
    middle = tools.follows("export", "follows", "--as-of", 40, "--format", "ndjson")
    assert 0 < len(middle.objects) < now.count("\n") and not any("u12" in one.values() for one in middle.objects)
    assert set(middle.objects[0]) == {"follower", "followed", "created_at", "notifications"}
    assert tools.follows("export", "follows", "--as-of", 10**6).code == 1


def test_users_are_exported_to_standard_output(tools: Tools) -> None:
    done = tools.follows_process("export", "users", "-o", "-", "--format", "ndjson")
    found = {one["id"]: one for one in done.objects}
    assert "u12" not in found and len(found) == 12 and done.err == ""
    assert found["u2"] == {"id": "u2", "username": "second", "display_name": "U2", "bio": "renamed"}
    assert found["u5"]["status"] == "null" and "avatar_url" not in found["u5"]


def test_failed_export_leaves_the_old_file_and_no_other(tools: Tools, tmp_path: Path) -> None:
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


def test_closed_output_ends_the_export_in_silence(tools: Tools) -> None:
    """As in `follows export users | head -1`."""
    process = tools.start("export", "follows", "--format", "ndjson")
    assert process.stdout is not None and process.stderr is not None
    assert set(json.loads(process.stdout.readline())) == {"follower", "followed", "created_at", "notifications"}
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() in (0, 141)  # 0 if all of it was in the pipe already; test_main has the certain case
