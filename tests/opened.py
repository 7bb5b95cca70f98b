"""Fixtures for tests below HTTP: what a process opens on the real servers. A package's conftest.py imports them."""

import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.rows import TupleRow

from cli.embedded import embedded
from commands.postgres import Engine, PostgresSettings, create_engine
from projections.store import Store, StoreSettings, open_store
from tests.breakable import Breakable
from tests.breakable import _answers_ping as answers_ping

# redis-py's plain client: its own types say of every answer that it might have to be awaited.
Plain = Any

# Examples that run on a server take milliseconds each, and share the test's database.
few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
many = settings(max_examples=150, deadline=None)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    """The engine of a process, on a migrated and empty database."""
    opened = create_engine(PostgresSettings(database_url))
    yield opened
    await opened.dispose()


@pytest.fixture
async def other_engine(database_url: str) -> AsyncIterator[Engine]:
    """Another process' engine on the same database."""
    opened = create_engine(PostgresSettings(database_url))
    yield opened
    await opened.dispose()


@pytest.fixture
def sql(database_url: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """A connection for looking at the test's database by hand."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """A Valkey of the module's own, which a test may kill, freeze and start again."""
    with embedded(tmp_path_factory.mktemp("fragile"), postgres=False) as running:
        assert running.views is not None
        url = running.views
        yield Breakable(url, running.servers[0], signal.SIGKILL, lambda: answers_ping(url))


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    """The store of a process, on an empty Valkey database."""
    opened = open_store(StoreSettings(redis_url))
    yield opened
    await opened.close()
