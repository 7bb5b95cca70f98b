"""Connections of looks: a connect goes on when a look gives up, and an old one is lent until the next one is open."""

import asyncio
import warnings
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from commands.db import postgres
from commands.db.address import POSTGRES_CONNECT_TIMEOUT_S
from commands.db.postgres import Engine, PostgresSettings, connected_within, create_engine, fetch
from commands.errors import LogUnavailable
from tests.support.proxy import Proxy, listening, postgres_socket, through_port
from tests.support.waiting import until

SHORT_S = 0.1
_PID = text("SELECT pg_backend_pid()")


def for_looks(database_url: str) -> Engine:
    return create_engine(PostgresSettings(database_url, allow_async_commit=True), for_looks=True)


def connects() -> list[asyncio.Task[object]]:
    """Return the connects that are under way."""
    return [task for task in asyncio.all_tasks() if "connect_async" in repr(task)]


async def give_up(engine: Engine) -> None:
    with pytest.raises(LogUnavailable, match="no connection in time"):
        async with connected_within(engine, SHORT_S):
            pass


async def test_connect_goes_on_over_several_looks(database_url: str) -> None:
    async with listening(proxy := Proxy(postgres_socket(database_url))) as port:
        looks = for_looks(through_port(database_url, port))
        proxy.hang()
        await give_up(looks)
        await give_up(looks)
        proxy.resume()
        async with connected_within(looks, POSTGRES_CONNECT_TIMEOUT_S):
            assert proxy.connections == 1
        await looks.dispose()


async def test_connect_that_fails_between_two_looks_fails_the_second(database_url: str) -> None:
    """And the third one begins again."""
    async with listening(proxy := Proxy(postgres_socket(database_url), cuts=[1])) as port:
        looks = for_looks(through_port(database_url, port))
        with pytest.raises(LogUnavailable, match="no connection in time"):
            async with connected_within(looks, 0):
                pass
        with pytest.raises(LogUnavailable, match="the connection failed or ended"):
            async with connected_within(looks, POSTGRES_CONNECT_TIMEOUT_S):
                pass
        async with connected_within(looks, POSTGRES_CONNECT_TIMEOUT_S):
            assert proxy.connections == 2
        await looks.dispose()


async def test_two_looks_at_once_have_a_connection_each(database_url: str) -> None:
    looks = for_looks(database_url)
    pids = await asyncio.gather(*(fetch(looks, _PID) for _ in range(2)))
    assert pids[0] != pids[1]
    await looks.dispose()


async def test_old_connection_is_lent_until_the_next_one_is_open(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECTION_AGE_MAX_S", 0)
    looks = for_looks(database_url)
    first = await fetch(looks, _PID)
    assert await fetch(looks, _PID) == first
    await until(lambda: _is_another(looks, first))
    await looks.dispose()


async def _is_another(engine: Engine, pid: object) -> bool:
    return await fetch(engine, _PID) != pid


async def test_connect_that_no_look_has_taken_ends_with_the_engine(
    database_url: str, sql: psycopg.Connection[Any]
) -> None:
    looks = for_looks(f"{database_url}&application_name=unclaimed")

    def sessions() -> int:
        return sql.execute("SELECT FROM pg_stat_activity WHERE application_name = 'unclaimed'").rowcount

    with pytest.raises(LogUnavailable):
        async with connected_within(looks, 0):
            pass
    await until(lambda: sessions() == 1 and not connects())
    with warnings.catch_warnings(record=True, action="always") as said:
        await looks.dispose()
        await until(lambda: sessions() == 0)
    assert not said, "psycopg warns of a connection that is not closed"


async def test_hanging_connect_ends_with_the_engine(database_url: str) -> None:
    async with listening(proxy := Proxy(postgres_socket(database_url))) as port:
        looks = for_looks(through_port(database_url, port))
        proxy.hang()
        await give_up(looks)
        [opening] = connects()
        await looks.dispose()
        await asyncio.wait({opening})
        assert opening.cancelled()
