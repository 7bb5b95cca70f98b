"""A session has the settings that the code relies on, whatever the database, the role and the environment say."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from commands.bulk_follows import connect_import
from commands.coordination import leases, parked, pause, view_register
from commands.db.migrate import upgrade_database
from commands.db.postgres import Engine, PostgresSettings, check_server, create_engine, fetch
from commands.db.schema import check_current
from commands.db.session import RELIED_ON, SessionNeeds, UnusableServer
from commands.errors import LogUnavailable, SettingsError
from commands.events import UserFollowed
from commands.idempotency import command_key
from commands.log import event_log as log
from commands.log.event_log import Draft
from tests.support.log_writes import append, everything, register
from tests.support.servers import Servers

# For each setting a value that a database may give to its sessions.
HOSTILE = {
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "'sql_standard'",
    "timezone": "'Asia/Kathmandu'",
    "client_encoding": "'LATIN1'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_deferrable": "on",
    "idle_in_transaction_session_timeout": "300",
    "transaction_timeout": "'1min'",
    "session_replication_role": "'replica'",
    "lock_timeout": "1",
    "statement_timeout": "'1min'",
    "check_function_bodies": "off",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "row_security": "off",
    "plpgsql.variable_conflict": "'use_variable'",
    "plpgsql.extra_errors": "'all'",
    "lc_messages": "'C'",
    "xmlbinary": "'hex'",
}


@pytest.fixture
def bare_name(servers: Servers) -> Iterator[str]:
    """The name of a database without tables, in which each session begins with hostile settings."""
    name = f"hostile_{uuid4().hex[:8]}"
    servers.administer(f"CREATE DATABASE {name}")
    for setting, value in HOSTILE.items():
        servers.administer(f"ALTER DATABASE {name} SET {setting} = {value}")
    yield name
    servers.administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=[False, True], ids=["a session each", "transaction pooling"])
def settings(request: pytest.FixtureRequest, servers: Servers, bare_name: str) -> PostgresSettings:
    url = servers.database_url(bare_name)
    return PostgresSettings(url, allow_async_commit=True, transaction_pooling=request.param)


async def exercise(settings: PostgresSettings) -> None:
    """Migrate, write and read through all kinds of connections."""
    upgrade_database(settings.database_url, transaction_pooling=settings.transaction_pooling)
    engine = create_engine(settings)
    await check_server(engine)
    await check_current(engine)
    alice, bob, zoe = await register(engine, "alice", "bob", "zoe")
    key = command_key("alice", "k", "r")
    with_key = Draft(bob, alice, 1, UserFollowed(), key.id, key.request_hash)
    async with engine.connect() as connection:
        assert len(await log.append(connection, [Draft(alice, bob, 1, UserFollowed()), with_key])) == 2
    assert len(await everything(engine)) == 5
    await view_register.register_generation(engine, 64, "ä")
    (generation,) = await view_register.list_generations(engine)
    assert generation.started_at.tzinfo in (UTC, generation.started_at.tzinfo) and generation.reason == "ä"
    await pause.pause_projection(engine, "me", "🦊")
    found = await pause.read_pause(engine)
    assert found is not None and found.why == "🦊"
    assert await leases.acquire(engine, "x", uuid4()) is not None
    assert (await leases.list_leases(engine))[0].renewal > 0
    await parked.park(engine, [(1, alice, bob, "why")])
    assert (await parked.read_parked(engine))[0].parked_at
    for name, value in RELIED_ON.items():
        assert (await fetch(engine, text(f"SELECT current_setting('{name}')")))[0][0] == value
    with pytest.raises(psycopg.errors.RestrictViolation):
        await _delete_events(engine)
    await engine.dispose()
    with connect_import(settings) as importing:
        assert importing.find(["zoe"]) == set() and importing.numbers == {"zoe": zoe}


async def _delete_events(engine: Engine) -> None:
    try:
        await fetch(engine, text("DELETE FROM events RETURNING 1"))
    except Exception as error:
        raise error.__cause__ or error from None


async def test_settings_of_database_change_nothing(settings: PostgresSettings) -> None:
    await exercise(settings)


async def test_settings_of_environment_change_nothing(
    settings: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGDATESTYLE and PGTZ are sent in a way that startup options lose to."""
    monkeypatch.setenv("PGDATESTYLE", "German, DMY")
    monkeypatch.setenv("PGTZ", "America/St_Johns")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGOPTIONS", "-c array_nulls=off -c datestyle=SQL")
    await exercise(settings)


@pytest.mark.parametrize("where", ["url", "PGOPTIONS"])
async def test_options_of_address_stay(servers: Servers, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema and the limits that the operator gives hold for migrations, the service and imports."""
    name = f"options_{uuid4().hex[:8]}"
    servers.administer(f"CREATE DATABASE {name}")
    url = servers.database_url(name)
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute("CREATE SCHEMA app")
    if where == "url":
        url += "&options=-csearch_path%3Dapp%20-cstatement_timeout%3D7s"
    else:
        monkeypatch.setenv("PGOPTIONS", "-csearch_path=app -cstatement_timeout=7s")
    settings = PostgresSettings(url, allow_async_commit=True)
    upgrade_database(url)
    engine = create_engine(settings)
    await check_current(engine)
    await append(engine, 1, 2, UserFollowed())
    assert await fetch(
        engine, text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
    ) == [("7s", "5s")]
    assert await fetch(engine, text("SELECT count(*) FROM app.events")) == [(1,)]
    await engine.dispose()
    with connect_import(settings) as importing:
        assert importing.find(["nobody"]) == set()
    servers.administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(("version", "is_refused"), [("130014", True), ("140000", False), ("180006", False)])
def test_server_that_is_too_old_is_refused(version: str, is_refused: bool) -> None:
    row = (1, version, "read committed", "UTF8", "off", "on", "on", "on")
    with (
        pytest.raises(UnusableServer, match="it is PostgreSQL 13: 14 or newer is needed")
        if is_refused
        else nullcontext()
    ):
        assert SessionNeeds({}).check(row) == (1, "read committed")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_database_that_cannot_hold_every_name_is_refused(servers: Servers, encoding: str) -> None:
    name = f"narrow_{uuid4().hex[:8]}"
    servers.administer(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
    )
    settings = PostgresSettings(servers.database_url(name), allow_async_commit=True)
    words = f"encoding is {encoding}, .*ENCODING 'UTF8'"
    with pytest.raises(SettingsError, match=words):
        upgrade_database(settings.database_url)
    for is_tool in (False, True):
        engine = create_engine(settings, is_tool=is_tool)
        with pytest.raises(SettingsError, match=words):
            await check_server(engine)
        with pytest.raises(LogUnavailable):
            await log.head(engine)
        await engine.dispose()
    with pytest.raises(SettingsError, match=words), connect_import(settings):
        pass
    servers.administer(f"DROP DATABASE {name} WITH (FORCE)")
