"""Fixtures that any test may ask for: the real servers, once per run, and a clean corner of them per test."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Servers, fresh_database, real_servers

_numbers = itertools.count()


def pytest_configure() -> None:
    """A shell lets what it starts with ``&`` ignore Ctrl-C, and so would every process that a test starts and ends.

    Who ends a run by SIGTERM, as CI does, means the same: the servers are stopped before it goes.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Everything runs on asyncio; the service knows no other loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Valkey from the wheels, started when the first test asks."""
    with real_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A migrated, empty database that no other test sees."""
    with fresh_database(servers) as url:
        yield url


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Valkey database for the views."""
    return servers.valkey_url(2 * next(_numbers) % 16)


@pytest.fixture
def queue_url(servers: Servers) -> str:
    """An empty Valkey database for arq's queue, never the one of the views."""
    return servers.valkey_url(2 * next(_numbers) % 16 + 1)


@pytest.fixture
def server_path(redis_url: str) -> str:
    """The socket of the run's Valkey."""
    return redis_url.removeprefix("unix://").partition("?")[0]


@pytest.fixture
def service_folder(tmp_path: Path) -> Path:
    """A folder for a running service's key and logs."""
    folder = tmp_path / "service"
    folder.mkdir(mode=0o700)
    return folder
