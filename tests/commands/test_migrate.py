"""Migrations and the checks before a process may write."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands.errors import LogUnavailable, SettingsError
from commands.events import UserFollowed
from commands.migrate import check_current, newest_revision, upgrade
from commands.postgres import Engine, PostgresSettings, check_durability, create_engine, driver_url
from tests.commands.writing import append, everything, rows
from tests.servers import Servers


@pytest.fixture
def bare_url(servers: Servers) -> Iterator[str]:
    """A database in which nothing has been made."""
    name = f"bare_{uuid4().hex[:8]}"
    servers.administer(f"CREATE DATABASE {name}")
    yield servers.database_url(name)
    servers.administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def bare(bare_url: str) -> AsyncIterator[Engine]:
    """An engine on it."""
    engine = create_engine(PostgresSettings(bare_url))
    yield engine
    await engine.dispose()


async def test_migrating_twice_changes_nothing(engine: Engine, database_url: str, sql: psycopg.Connection[Any]) -> None:
    """The second run leaves the log, its identity and every table as they are."""
    await append(engine, 1, 2, UserFollowed())
    what = "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    before = rows(sql, what), rows(sql, "SELECT * FROM log_identity"), await everything(engine)
    upgrade(database_url)
    assert (rows(sql, what), rows(sql, "SELECT * FROM log_identity"), await everything(engine)) == before


async def test_processes_that_migrate_at_once_do_not_meet(bare: Engine, bare_url: str) -> None:
    """Several start on an empty database: each succeeds, and there is one log."""
    command = [sys.executable, "-c", "import sys, commands.migrate as m; m.upgrade(sys.argv[1])", bare_url]
    assert run_at_once([command] * 3) == [(0, b"")] * 3
    await check_current(bare)
    with psycopg.connect(bare_url) as sql:
        assert rows(sql, "SELECT count(*) FROM log_identity") == [(1,)]
        assert rows(sql, "SELECT version_num FROM alembic_version") == [(newest_revision(),)]


def run_at_once(commands: list[list[str]]) -> list[tuple[int, bytes]]:
    """Exit code and complaints of each."""
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    complaints = [process.communicate()[1] for process in running]
    return [(process.returncode, said) for process, said in zip(running, complaints, strict=True)]


async def test_a_database_without_the_migrations_is_refused(bare: Engine, bare_url: str) -> None:
    """With a word on what to do; also one that a newer version has migrated."""
    with pytest.raises(SettingsError, match="follows migrate"):
        await check_current(bare)
    upgrade(bare_url)
    await check_current(bare)
    with psycopg.connect(bare_url, autocommit=True) as sql:
        sql.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match="9999"):
        await check_current(bare)


@pytest.mark.parametrize("value", ["on", "local", "remote_write", "off"])
async def test_commits_that_are_not_on_disk_are_refused(database_url: str, servers: Servers, value: str) -> None:
    """Promise 1 needs synchronous_commit; who really wants none of it must say so."""
    name = database_url.partition("@/")[2].partition("?")[0]
    servers.administer(f"ALTER DATABASE {name} SET synchronous_commit = {value}")
    engine = create_engine(PostgresSettings(database_url))
    if value == "off":
        with pytest.raises(SettingsError, match="FOLLOWS_ALLOW_ASYNC_COMMIT"):
            await check_durability(engine, PostgresSettings(database_url))
    else:
        await check_durability(engine, PostgresSettings(database_url))
    await check_durability(engine, PostgresSettings(database_url, allow_async_commit=True))
    await engine.dispose()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """DATABASE_URL must be there; giving durability up takes exactly one word."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        PostgresSettings.from_env()
    monkeypatch.setenv("DATABASE_URL", "postgres://u:p@h/d")
    for value, allowed in [("", False), ("0", False), ("1", True)]:
        monkeypatch.setenv("FOLLOWS_ALLOW_ASYNC_COMMIT", value)
        assert PostgresSettings.from_env() == PostgresSettings("postgres://u:p@h/d", allowed)


@pytest.mark.parametrize(
    ("given", "driven"),
    [
        ("postgres://u:p%40@h:1/d?host=%2Ftmp%2Fx", "postgresql+psycopg://u:p%40@h:1/d?host=%2Ftmp%2Fx"),
        ("postgresql://u@/d", "postgresql+psycopg://u@/d"),
    ],
)
def test_both_forms_of_the_url_do(given: str, driven: str) -> None:
    """With its password, which must not be lost on the way."""
    assert driver_url(given) == driven


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://h/d", "postgresql://h:port/d"])
def test_what_is_no_url_of_postgres_is_refused(url: str) -> None:
    """In one sentence, without the password that may stand in it."""
    with pytest.raises(SettingsError):
        driver_url(url)


async def test_a_postgres_that_is_not_there_is_unavailable() -> None:
    """Not a fault of the settings: it may come."""
    engine = create_engine(PostgresSettings("postgresql://nobody@/none?host=%2Fnowhere"))
    with pytest.raises(LogUnavailable):
        await check_durability(engine, PostgresSettings(""))
    await engine.dispose()
