"""Databases of another version: a command does what can be done, or says in one line what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.support.cli_runner import Tools, tools_on

Sql = psycopg.Connection[Any]

TABLES: Final = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
# Development versions have no compatible_with.
OTHER_REVISION: Final = "UPDATE follows_version SET version_num = '0002_older', compatible_with = NULL"


@pytest.fixture
def sql(database_url: str) -> Iterator[Sql]:
    """Make a connection to the log's database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Commands on an empty log."""
    return tools_on(database_url, redis_url, queue_url, tmp_path)


@pytest.fixture
def older(tools: Tools, sql: Sql) -> Tools:
    """Commands on a database of an older development version, in which the tables had other names."""
    for (table,) in sql.execute(f"{TABLES} AND relname <> 'follows_version'").fetchall():
        sql.execute(f"ALTER TABLE {table} RENAME TO older_{table}")
    sql.execute(OTHER_REVISION)
    return tools


every_command = pytest.mark.parametrize(
    "words",
    [
        ("rebuild",),
        ("rebuild", "--dry-run"),
        ("generations",),
        ("pause", "--why", "a test"),
        ("resume",),
        ("parked",),
        ("parked", "skip", 1, "--reason", "a test"),
        ("as-of", 1, "u1"),
        ("history", "u1"),
        ("export", "follows"),
        ("export", "users"),
        ("import", "follows", __file__),
        ("migrate",),
    ],
    ids=lambda words: " ".join(map(str, words[:2])).removesuffix(__file__),
)


@every_command
def test_command_that_fails_on_an_older_database_says_so_in_one_line(older: Tools, words: tuple[object, ...]) -> None:
    done = older.follows(*words)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "older development version" in done.err and "start with an empty database" in done.err
    assert "--data" in done.err


def test_status_of_an_older_database_reports_it(older: Tools) -> None:
    done = older.follows("status")
    assert done.code == 2 and "log_not_usable: the database has tables that this version of Follows" in done.out


def test_commands_on_another_revision_with_the_same_tables_work(tools: Tools, sql: Sql) -> None:
    """A newer program can pause the projection before `follows migrate`. An import is refused up front."""
    sql.execute(OTHER_REVISION)
    assert tools.follows("pause", "--why", "a test").code == 0
    assert "the projection is paused by " in tools.follows("status").out
    for words in (("resume",), ("parked",), ("generations",), ("export", "follows")):
        assert tools.follows(*words).code == 0
    done = tools.follows("import", "follows", __file__)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1) and "older development version" in done.err


@every_command
@pytest.mark.parametrize("beside", ["nothing", "another application's alembic_version"])
def test_command_on_a_database_without_tables_names_migrate(
    tools: Tools, sql: Sql, words: tuple[object, ...], beside: str
) -> None:
    sql.execute("DROP SCHEMA public CASCADE")
    sql.execute("CREATE SCHEMA public")
    if beside != "nothing":
        sql.execute("CREATE TABLE alembic_version AS SELECT 'ae1027a6acf'::text AS version_num")
    done = tools.follows(*words)
    if words == ("migrate",):
        assert done.code == 0
    else:
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert done.err.endswith(": run `follows migrate`\n")


def test_verify_of_a_database_without_tables_names_migrate(tools: Tools, sql: Sql) -> None:
    """It is not the missing view that matters."""
    sql.execute("DROP SCHEMA public CASCADE")
    sql.execute("CREATE SCHEMA public")
    done = tools.follows("verify")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.endswith(": run `follows migrate`\n")


def test_statement_that_postgres_refuses_is_one_line(tools: Tools, sql: Sql) -> None:
    """Without the statement; the traceback is shown on request."""
    sql.execute("DROP SCHEMA public CASCADE")
    done = tools.follows("migrate")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "no schema has been selected to create in" in done.err and "CREATE" not in done.err
    _, more = tools.with_environment(FOLLOWS_LOG_LEVEL="DEBUG").start("migrate").communicate()
    assert "Traceback" in more and more.endswith(done.err)


def test_verify_of_an_older_database_could_not_be_done(older: Tools) -> None:
    done = older.follows("verify", "--generation", 1)
    assert done.code == 2 and "older development version" in done.err and done.err.count("\n") == 1


def test_up_on_an_older_database_is_refused_in_one_line(older: Tools, tmp_path: Path) -> None:
    done = older.follows_process("up", "--data", tmp_path / "data", "--port", 0)
    assert done.code == 1 and done.err.count("\n") == 1 and "--data" in done.err
