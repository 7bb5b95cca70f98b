"""DATABASE_URL in every form that libpq documents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest
from sqlalchemy import text

from commands.bulk_follows import connect_import
from commands.db.address import SOCKET, connect_arguments, earlier_hosts_s, hosts_of, read_address
from commands.db.identity import read_identity
from commands.db.migrate import upgrade_database
from commands.db.postgres import PostgresSettings, check_server, create_engine, fetch
from commands.errors import SettingsError
from tests.support.servers import Servers


@pytest.fixture(autouse=True)
def _without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGSERVICE", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def socket_folder(servers: Servers) -> str:
    """The folder of the server's Unix socket."""
    return parse_qs(urlsplit(servers.database).query)["host"][0]


@pytest.mark.parametrize(
    ("text_", "given"),
    [
        ("postgres://u:p%40@h:1/d", {"user": "u", "password": "p@", "host": "h", "port": "1", "dbname": "d"}),
        ("postgresql://h1:5,h2:6/d?target_session_attrs=read-write", {"host": "h1,h2", "port": "5,6"}),
        ("postgresql://[::1]:5,[2001:db8::2]/d", {"host": "::1,2001:db8::2", "port": "5,"}),
        ("postgresql:///d?host=/run/postgresql", {"host": "/run/postgresql"}),
        ("postgresql://%2Frun%2Fpostgresql/d", {"host": "/run/postgresql"}),
        ("postgresql://h/d?sslmode=verify-full&sslrootcert=/ca&sslcert=/c&sslkey=/k", {"sslkey": "/k"}),
        ("postgresql://?service=follows&passfile=/p", {"service": "follows", "passfile": "/p"}),
        ("host=h user=u dbname=d options='-c search_path=app'", {"options": "-c search_path=app"}),
    ],
)
def test_form_of_libpq_is_read(text_: str, given: dict[str, str]) -> None:
    assert given.items() <= read_address(text_).items()


@pytest.mark.parametrize(
    ("text_", "reason"),
    [
        ("nonsense", "missing ..."),
        ("mysql://h/d", "must begin with postgresql://, not mysql://"),
        ("postgresql+psycopg://h/d", "must begin with postgresql://"),
        ("postgresql://u:secret%zz@h/d", "invalid percent-encoded token"),
        ("postgresql://u:secret@h/d?pool=secret", "invalid URI query parameter"),
        ("postgresql://u:secret@[::1", "end of string"),
    ],
)
def test_other_form_is_refused_without_repeating_its_secrets(text_: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_address(text_)
    assert "DATABASE_URL" in refused.value.message and "secret" not in refused.value.message
    assert reason in refused.value.message


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://One/db", ["one:5432"]),
        ("postgresql://one:6432/db", ["one:6432"]),
        ("postgresql://two:2,one:1/db", ["one:1", "two:2"]),
        ("postgresql:///db?host=two,one&port=1,2", ["one:2", "two:1"]),
        ("postgresql:///db?hostaddr=10.0.0.1", ["10.0.0.1:5432"]),
        ("postgresql:///db?host=/tmp/x", [SOCKET]),
        ("postgresql:///db", [SOCKET]),
    ],
)
def test_hosts_of_url(url: str, hosts: list[str], servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(servers.database) as connection:
        in_force = [option for option in connection.pgconn.info if option.keyword != b"host"]

        class Connection:
            info = in_force

        assert hosts_of(read_address(url), Connection()) == hosts  # type: ignore[arg-type]
        monkeypatch.setenv("PGHOST", "three,four")  # it names the server of an address, too
        names_none = url in ("postgresql:///db", "postgresql:///db?hostaddr=10.0.0.1")
        expected = ["four:5432", "three:5432"] if names_none else hosts
        assert hosts_of(read_address(url), Connection()) == expected  # type: ignore[arg-type]


def test_network_limits_are_ours_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect_arguments("postgresql://h/d")["connect_timeout"] == 5
    assert connect_arguments("postgresql://h/d?connect_timeout=9")["connect_timeout"] == "9"
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert "connect_timeout" not in connect_arguments("postgresql://h/d")


def test_hosts_before_the_last_one_hold_up_a_connect_for_the_timeout_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert earlier_hosts_s("postgresql://h/d") == 0
    assert earlier_hosts_s("postgresql://h1,h2,h3/d") == 10
    assert earlier_hosts_s("postgresql:///d?host=h1,h2&connect_timeout=3") == 3
    monkeypatch.setenv("PGHOST", "h1,h2")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert earlier_hosts_s("postgresql:///d") == 7


@contextmanager
def _database(servers: Servers, name: str) -> Iterator[None]:
    servers.administer(f"CREATE DATABASE {name}")
    try:
        yield
    finally:
        servers.administer(f"DROP DATABASE {name} WITH (FORCE)")


async def _works(settings: PostgresSettings, hosts: list[str]) -> None:
    """Migrate, connect as a process and as an import."""
    upgrade_database(settings.database_url)
    engine = create_engine(settings)
    await check_server(engine)
    assert (await read_identity(engine)).hosts == hosts
    await engine.dispose()
    with connect_import(settings) as connected:
        assert connected.find(["nobody"]) == set()


async def test_second_host_is_tried_when_the_first_is_away(servers: Servers, socket_folder: str) -> None:
    with _database(servers, "hosts"):
        hosts = f"127.0.0.1:1,{quote(socket_folder, safe='')}"
        url = f"postgresql://postgres@{hosts}/hosts?target_session_attrs=read-write"
        await _works(PostgresSettings(url, allow_async_commit=True), ["127.0.0.1:1", SOCKET])


async def test_service_of_a_service_file_is_used(
    servers: Servers, socket_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[follows]\nhost={socket_folder},elsewhere\nuser=postgres\ndbname=served\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with _database(servers, "served"):
        settings = PostgresSettings("postgresql://?service=follows", allow_async_commit=True)
        await _works(settings, [SOCKET, "elsewhere:5432"])


async def test_options_of_address_hold_for_migrate_processes_and_imports(servers: Servers, socket_folder: str) -> None:
    with _database(servers, "optional"):
        with psycopg.connect(servers.database_url("optional"), autocommit=True) as connection:
            connection.execute("CREATE SCHEMA app")
        url = servers.database_url("optional") + "&options=-csearch_path%3Dapp"
        settings = PostgresSettings(url, allow_async_commit=True)
        await _works(settings, [SOCKET])
        engine = create_engine(settings)
        rows = await fetch(engine, text("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'events'"))
        assert [row[0] for row in rows] == ["app"]
        await engine.dispose()
