"""Promise 1: no connection is used on a server that may lose commits which it has answered."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from cli.dev.embedded import embedded
from commands.bulk_follows import connect_import
from commands.db.migrate import upgrade_database
from commands.db.postgres import PostgresSettings, check_server, create_engine, fetch
from commands.db.session import SessionNeeds, UnusableServer
from commands.decide import Follow
from commands.errors import LogUnavailable, SettingsError
from tests.support.log_writes import committing, register
from tests.support.read_only import end_sessions, set_default
from tests.support.waiting import until


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a migrated database on a durable PostgreSQL of this module."""
    with embedded(tmp_path_factory.mktemp("durable"), valkey=False) as running:
        assert running.database is not None
        upgrade_database(running.database)
        yield running.database


async def set_on_server(url: str, setting: str, value: str) -> None:
    """Change a setting of the running server, as an operator does, and return when new sessions have it."""
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(f"ALTER SYSTEM SET {setting} = {value}".encode())
        sql.execute("SELECT pg_reload_conf()")

    async def is_set() -> bool:
        with psycopg.connect(url) as sql:
            return sql.execute("SELECT current_setting(%s)", [setting]).fetchone() == (value,)

    await until(is_set)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_server_that_may_lose_commits_is_refused_unless_allowed(url: str, setting: str) -> None:
    """The start ends; what was started before gets no new connection, until the setting is right again."""
    engine = create_engine(PostgresSettings(url))
    await check_server(engine)
    alice, bob, carol = await register(engine, *(f"{name}-{setting}" for name in ("alice", "bob", "carol")))
    async with committing(engine) as commits:
        await commits.send(Follow(alice, bob))
        await set_on_server(url, setting, "off")
        end_sessions(url)  # as the age of the connections does
        with pytest.raises(LogUnavailable):
            await commits.send(Follow(alice, carol))
        with pytest.raises(SettingsError, match=f"{setting} is off: .*FOLLOWS_ALLOW_ASYNC_COMMIT=1"):
            await check_server(engine)
        with pytest.raises(SettingsError, match=f"{setting} is off"), connect_import(PostgresSettings(url)):
            pass
        allowed = create_engine(PostgresSettings(url, allow_async_commit=True))
        await check_server(allowed)
        await allowed.dispose()
        tool = create_engine(PostgresSettings(url), is_tool=True)
        await check_server(tool)
        await tool.dispose()
        await set_on_server(url, setting, "on")
        await commits.send(Follow(alice, carol))
    await engine.dispose()


@pytest.mark.parametrize("value", ["off", "local", "remote_write"])
async def test_asynchronous_commit_by_default_does_not_reach_the_product(url: str, value: str) -> None:
    """Neither before the start nor afterwards; with FOLLOWS_ALLOW_ASYNC_COMMIT the server decides."""
    set_default(url, f"SET synchronous_commit = {value}")
    for allowed, expected in ((False, "on"), (True, value)):
        settings = PostgresSettings(url, allow_async_commit=allowed)
        engine = create_engine(settings)
        assert (await fetch(engine, text("SHOW synchronous_commit")))[0][0] == expected
        await engine.dispose()
        with connect_import(settings) as importing:
            assert importing.connection.execute("SHOW synchronous_commit").fetchone() == (expected,)


def test_asynchronous_commit_that_stays_off_is_refused() -> None:
    """As behind a pooler that drops what a session sets."""
    needs, found = SessionNeeds({}), (1, "180006", "read committed", "UTF8", "off", "on", "on", "off")
    with pytest.raises(UnusableServer, match=r"synchronous_commit is off: .*FOLLOWS_ALLOW_ASYNC_COMMIT=1"):
        needs.check(found)
