"""Sessions that poolers share. tests/servers/test_pgbouncer.py has the same with a real pooler."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from commands.db.pooling import shares_sessions
from commands.db.postgres import Engine, PostgresSettings, connected, create_engine, fetch, transaction
from commands.errors import LogUnavailable
from commands.log import event_log as log

STATEMENTS = 12


@pytest.fixture
def settings(database_url: str) -> PostgresSettings:
    return PostgresSettings(database_url, allow_async_commit=True, transaction_pooling=True)


async def _prepared(engine: Engine) -> int:
    for _ in range(STATEMENTS):
        await log.read_after(engine, 0, 10)
        await log.head(engine)
    found: int = (await fetch(engine, text("SELECT count(*) FROM pg_prepared_statements")))[0][0]
    return found


async def test_no_prepared_statement_outlives_a_transaction(settings: PostgresSettings, engine: Engine) -> None:
    shared = create_engine(settings)
    assert await _prepared(shared) == 0
    assert await _prepared(engine) > 0, "a control: without the setting there are some"
    await shared.dispose()


async def test_each_transaction_has_its_settings_and_leaves_none(settings: PostgresSettings) -> None:
    """Also a transaction of several statements, and one after an error."""
    engine = create_engine(settings)
    lock_timeout = text("SELECT current_setting('lock_timeout')")
    async with connected(engine) as connection:
        assert (await connection.execute(lock_timeout)).scalar_one() == "5s"
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)
        plain = await psycopg.AsyncCursor(driver).execute("SELECT current_setting('lock_timeout')")
        assert await plain.fetchone() == ("0",)
        for _ in range(2):
            with pytest.raises(DBAPIError, match="division by zero"):
                await connection.execute(text("SELECT 1 / 0"))
            assert (await connection.execute(lock_timeout)).scalar_one() == "5s"
    async with transaction(engine, text("SELECT 1")) as connection:
        for _ in range(2):
            assert (await connection.execute(lock_timeout)).scalar_one() == "5s"
    await engine.dispose()


async def test_limit_on_statements_holds(settings: PostgresSettings) -> None:
    engine = create_engine(settings, timeout_s=0.5)
    with pytest.raises(LogUnavailable, match="statement timeout"):
        await fetch(engine, text("SELECT pg_sleep(10)"))
    assert await fetch(engine, text("SELECT 1")) == [(1,)]
    await engine.dispose()


class _Client:
    """A connection to a pooler that gives out these sessions in turn."""

    def __init__(self, sessions: Iterator[psycopg.Connection[Any]]) -> None:
        self._sessions = sessions

    @property
    def pgconn(self) -> Any:
        return next(self._sessions).pgconn

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_sessions_that_change_hands_are_recognised(database_url: str) -> None:
    with psycopg.connect(database_url) as a, psycopg.connect(database_url) as b, psycopg.connect(database_url) as c:

        def pooler(*given: list[psycopg.Connection[Any]]) -> bool:
            clients = (_Client(iter(sessions * 20)) for sessions in given)
            return shares_sessions(lambda: next(clients))  # type: ignore[arg-type]

        assert pooler([a], [a]), "an idle pool gives the one session to each in turn"
        assert pooler([a, b], [b, c]), "a busy pool gives any session to any client"
        assert not pooler([a], [b]), "each client has its own"
    assert not shares_sessions(lambda: psycopg.connect(database_url, autocommit=True))
