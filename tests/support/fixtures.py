"""Fixtures for tests below HTTP: engines and clients on the real servers. A package's conftest.py imports them."""

import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.rows import TupleRow

from cli.dev.embedded import embedded
from commands.db.postgres import Engine, PostgresSettings, create_engine
from projections.client.client import RedisClient, RedisClientSettings, open_redis
from tests.support.breakable_servers import Breakable, answers_ping

# redis-py's own client, untyped: its types declare every answer as perhaps awaitable.
Plain = Any

# Hypothesis settings: few examples for tests on a server, where each takes milliseconds and shares the test's database.
few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
many = settings(max_examples=150, deadline=None)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    """An engine on a migrated and empty database."""
    opened = create_engine(PostgresSettings(database_url, allow_async_commit=True))
    yield opened
    await opened.dispose()


@pytest.fixture
async def other_engine(database_url: str) -> AsyncIterator[Engine]:
    """A second engine on the same database, as another process has one."""
    opened = create_engine(PostgresSettings(database_url, allow_async_commit=True))
    yield opened
    await opened.dispose()


@pytest.fixture
def sql(database_url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """A plain connection to the test's database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """A Valkey of the test module's own, which a test may kill, freeze and start again."""
    with embedded(tmp_path_factory.mktemp("fragile"), postgres=False) as running:
        assert running.views is not None
        url = running.views
        yield Breakable(url, running.servers[0], signal.SIGKILL, lambda: answers_ping(url))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisClient]:
    """A Redis client of the product, on an empty Valkey database."""
    opened = open_redis(RedisClientSettings(redis_url))
    yield opened
    await opened.close()
