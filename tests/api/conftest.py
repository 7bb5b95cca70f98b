"""Fixtures of the tests over HTTP: the application in this process, one per module."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis

from cli.dev.dev_key import ensure_dev_key
from cli.dev.embedded import embedded
from tests.support.in_process import InProcess, environment, in_process
from tests.support.servers import Servers, fresh_database


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a development key, which signs the tokens of all tests here."""
    folder = tmp_path_factory.mktemp("keys")
    ensure_dev_key(folder)
    return folder


@pytest.fixture(scope="session")
def module_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Valkey for services that outlive a test (the run's own gives its databases away test by test); two URLs."""
    with embedded(tmp_path_factory.mktemp("valkey"), postgres=False) as running:
        assert running.views and running.queue
        yield running.views, running.queue


@pytest.fixture(scope="module")
def module_settings(servers: Servers, module_valkey: tuple[str, str], keys: Path) -> Iterator[dict[str, str]]:
    """The environment of this module's service, on an empty database and an empty Valkey."""
    with Redis.from_url(module_valkey[0]) as client:
        client.flushall()
    with fresh_database(servers) as url:
        yield environment(url, *module_valkey, keys)


@pytest.fixture(scope="module")
async def service(module_settings: dict[str, str], keys: Path) -> AsyncIterator[InProcess]:
    """The application with a projection loop. The module's tests share it, so each makes its own callers."""
    async with in_process(module_settings, keys) as running:
        yield running


@pytest.fixture
def own_settings(database_url: str, redis_url: str, queue_url: str, keys: Path) -> dict[str, str]:
    """The environment of a service that one test has for itself, to be run by ``in_process``."""
    return environment(database_url, redis_url, queue_url, keys)
