"""Migrations and the checks before a process may write."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic.script import ScriptDirectory

from cli.dev.processes import ROOT
from commands.db import schema
from commands.db.migrate import upgrade_database
from commands.db.postgres import Engine, PostgresSettings, check_server, create_engine
from commands.db.schema import NEWEST_REVISION, check_current
from commands.errors import LogUnavailable, SettingsError
from commands.events import UserFollowed
from tests.support.log_writes import append, everything, rows
from tests.support.servers import Servers

REVISIONS = [
    *("0001_initial", "0002_histories", "0003_parked", "0004_compatible", "0005_processes", "0006_stores"),
    "0007_ids",
]


@pytest.fixture
def bare_url(servers: Servers) -> Iterator[str]:
    """Create a database without any table."""
    name = f"bare_{uuid4().hex[:8]}"
    servers.administer(f"CREATE DATABASE {name}")
    yield servers.database_url(name)
    servers.administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def bare(bare_url: str) -> AsyncIterator[Engine]:
    """Make an engine on the bare database."""
    engine = create_engine(PostgresSettings(bare_url, allow_async_commit=True))
    yield engine
    await engine.dispose()


async def test_second_migration_changes_nothing(
    engine: Engine, database_url: str, sql: psycopg.Connection[Any]
) -> None:
    await append(engine, 1, 2, UserFollowed())
    what = "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    before = rows(sql, what), rows(sql, "SELECT * FROM log_identity"), await everything(engine)
    upgrade_database(database_url)
    assert (rows(sql, what), rows(sql, "SELECT * FROM log_identity"), await everything(engine)) == before


async def test_concurrent_migrations_of_empty_database_all_succeed(bare: Engine, bare_url: str) -> None:
    """There is one log afterwards."""
    command = [sys.executable, "-c", "import sys, commands.db.migrate as m; m.upgrade_database(sys.argv[1])", bare_url]
    assert run_at_once([command] * 3) == [(0, b"")] * 3
    await check_current(bare)
    with psycopg.connect(bare_url) as sql:
        assert rows(sql, "SELECT count(*) FROM log_identity") == [(1,)]
        assert rows(sql, "SELECT version_num FROM follows_version") == [(NEWEST_REVISION,)]


def run_at_once(commands: list[list[str]]) -> list[tuple[int, bytes]]:
    """Run commands at once; return exit code and error output of each."""
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    errors = [process.communicate()[1] for process in running]
    return [(process.returncode, text) for process, text in zip(running, errors, strict=True)]


async def test_database_without_migrations_is_refused_until_upgraded(bare: Engine, bare_url: str) -> None:
    with pytest.raises(SettingsError, match="run `follows migrate`"):
        await check_current(bare)
    upgrade_database(bare_url)
    await check_current(bare)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE TABLE follows_version AS SELECT '9999'::text AS version_num", "follows_version; revision 9999"),
        (
            "CREATE TABLE users (); CREATE TABLE alembic_version AS SELECT '0002'::text AS version_num",
            "users; revision",
        ),
        ("CREATE TABLE leases (); CREATE TABLE users ()", "leases, users; revision None"),
        ("CREATE VIEW events AS SELECT 1", "events; revision None"),
    ],
)
async def test_tables_of_another_version_or_application_are_refused_with_what_to_do(
    bare: Engine, bare_url: str, made: str, named: str
) -> None:
    """A newer version, an older development version, applications with tables of the same names; none is touched."""
    with psycopg.connect(bare_url, autocommit=True) as sql:
        sql.execute(made.encode())
        before = rows(sql, TABLES)
    words = f"{named} .*start with an empty database"
    with pytest.raises(SettingsError, match=words):
        await check_current(bare)
    with pytest.raises(SettingsError, match=words):
        upgrade_database(bare_url)
    with psycopg.connect(bare_url) as sql:
        assert rows(sql, TABLES) == before


async def test_newer_schema_is_used_by_versions_that_may_run_on_it(
    engine: Engine, database_url: str, sql: psycopg.Connection[Any]
) -> None:
    """It says which; others are told to upgrade. `follows migrate` changes nothing in either."""
    assert rows(sql, "SELECT compatible_with = ANY(%s) FROM follows_version", [REVISIONS]) == [(True,)]
    sql.execute("DROP FUNCTION store_answer")
    sql.execute("UPDATE follows_version SET version_num = '9002_later'")
    await check_current(engine)
    assert upgrade_database(database_url) == "9002_later"
    sql.execute("UPDATE follows_version SET compatible_with = '9001_newer'")
    words = "newer than this version: it is at revision 9002_later.* from revision 9001_newer on.*upgrade this process"
    with pytest.raises(SettingsError, match=words):
        await check_current(engine)
    with pytest.raises(SettingsError, match=words):
        upgrade_database(database_url)
    assert rows(sql, "SELECT to_regproc('store_answer')") == [(None,)]


async def test_older_schema_is_refused_until_migrated(
    engine: Engine, database_url: str, sql: psycopg.Connection[Any]
) -> None:
    """The migrations that are missing are run then."""
    for table, key in (("leases", "name"), ("parked", "position")):
        sql.execute(f"ALTER TABLE {table} DROP COLUMN store, ADD CONSTRAINT {table}_pkey PRIMARY KEY ({key})".encode())
    sql.execute("ALTER TABLE generations DROP COLUMN store, ADD CONSTRAINT generations_one_live CHECK (true)")
    sql.execute("ALTER TABLE lease_owners DROP COLUMN store, DROP COLUMN runs")
    sql.execute("ALTER TABLE pauses DROP CONSTRAINT pauses_only_one_key, DROP COLUMN store")
    sql.execute("ALTER TABLE pauses ADD CONSTRAINT pauses_pkey PRIMARY KEY (only_one)")
    sql.execute("UPDATE follows_version SET version_num = '0005_processes'")
    with pytest.raises(SettingsError, match=r"at revision 0005_processes, older than .*: run `follows migrate`"):
        await check_current(engine)
    assert upgrade_database(database_url) == NEWEST_REVISION
    await check_current(engine)


TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"


@pytest.mark.parametrize("revisions", ["('ae1027a6acf')", "('0002')", "('a'), ('b')"])
async def test_alembic_table_of_another_application_stays(bare: Engine, bare_url: str, revisions: str) -> None:
    """Both applications live in one schema where no table has the same name."""
    with psycopg.connect(bare_url, autocommit=True) as sql:
        sql.execute(f"CREATE TABLE alembic_version AS SELECT * FROM (VALUES {revisions}) v (version_num)".encode())
        before = rows(sql, "SELECT * FROM alembic_version")
        with pytest.raises(SettingsError, match="no tables of Follows yet: run `follows migrate`"):
            await check_current(bare)
        upgrade_database(bare_url)
        await check_current(bare)
        assert rows(sql, "SELECT * FROM alembic_version") == before


async def test_revision_in_the_former_table_is_known(bare: Engine, bare_url: str) -> None:
    """A development database is migrated further, and its table gets the new name."""
    upgrade_database(bare_url)
    with psycopg.connect(bare_url, autocommit=True) as sql:
        sql.execute("ALTER TABLE follows_version RENAME TO alembic_version")
        await check_current(bare)
        upgrade_database(bare_url)
        assert rows(sql, "SELECT to_regclass('alembic_version')") == [(None,)]
    await check_current(bare)


def test_settings_are_read_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """DATABASE_URL is required; only the value 1 allows asynchronous commits."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        PostgresSettings.from_env()
    monkeypatch.setenv("DATABASE_URL", "postgres://u:p@h/d")
    for value, allowed in [("", False), ("0", False), ("1", True)]:
        monkeypatch.setenv("FOLLOWS_ALLOW_ASYNC_COMMIT", value)
        assert PostgresSettings.from_env() == PostgresSettings("postgres://u:p@h/d", allowed)


async def test_missing_postgres_is_unavailable_not_a_settings_error() -> None:
    """It may come later."""
    engine = create_engine(PostgresSettings("postgresql://nobody@/none?host=%2Fnowhere", allow_async_commit=True))
    with pytest.raises(LogUnavailable):
        await check_server(engine)
    await engine.dispose()


def test_revisions_are_those_of_the_migrations_in_order() -> None:
    """They are read from the names of the files, so that a process that only checks the schema needs no alembic."""
    scripts = ScriptDirectory(str(ROOT / "commands" / "db" / "migrations"))
    assert [script.revision for script in scripts.walk_revisions()][::-1] == schema.REVISIONS == REVISIONS


def test_web_and_worker_do_not_load_alembic() -> None:
    script = "import sys, api.app, workers.__main__; sys.exit('alembic' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
