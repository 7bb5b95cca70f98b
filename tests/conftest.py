"""Fixtures for all tests: the real servers, once per run, and an empty database on each of them per test."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import NOT_DURABLE, Servers, fresh_database, real_servers

_numbers = itertools.count()


def pytest_configure() -> None:
    """Make SIGINT and SIGTERM stop the run, and its servers first.

    A shell makes programs that it starts with ``&`` ignore SIGINT, and every process that a test starts would inherit
    that. CI ends a run by SIGTERM.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ |= NOT_DURABLE


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the only loop that the service supports."""
    return "asyncio"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Valkey from the wheels, started for the first test that needs them."""
    with real_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A migrated, empty database of the test's own."""
    with fresh_database(servers) as url:
        yield url


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Valkey database for the views."""
    return servers.valkey_url(2 * next(_numbers) % 16)


@pytest.fixture
def queue_url(servers: Servers) -> str:
    """An empty Valkey database for arq's queue, another one than that of the views."""
    return servers.valkey_url(2 * next(_numbers) % 16 + 1)


@pytest.fixture
def server_path(redis_url: str) -> str:
    """The path of the Unix socket of the run's Valkey."""
    return redis_url.removeprefix("unix://").partition("?")[0]


@pytest.fixture
def service_folder(tmp_path: Path) -> Path:
    """A folder for a running service's key and logs."""
    folder = tmp_path / "service"
    folder.mkdir(mode=0o700)
    return folder
