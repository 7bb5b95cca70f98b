"""Fixtures for tests of the whole system: servers that a test may break, and the service as real processes on them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cli.dev.dev_key import ensure_dev_key
from tests.support.breakable_servers import BreakableServers, breakable_servers
from tests.support.servers import Service, running_service
from tests.support.two_services import TwoServices, two_services


@pytest.fixture(scope="session")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BreakableServers]:
    """A PostgreSQL and a Valkey that only these tests use."""
    with breakable_servers(tmp_path_factory.mktemp("breakable")) as servers:
        yield servers


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a development key."""
    folder = tmp_path_factory.mktemp("keys")
    ensure_dev_key(folder)
    return folder


@pytest.fixture(scope="module")
def system(breakable: BreakableServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Web and worker processes, ready. A test that kills one must start it again."""
    folder = tmp_path_factory.mktemp("system")
    with running_service(breakable.postgres.url, breakable.valkey.url, breakable.queue_url, folder) as service:
        yield service


@pytest.fixture(scope="module")
def running(breakable: BreakableServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoServices]:
    """Two web and two worker processes, each with a network of its own, on servers that a test may break."""
    with two_services(breakable, tmp_path_factory.mktemp("two")) as services:
        yield services


@pytest.fixture
def world(running: TwoServices) -> TwoServices:
    """Those processes, once the fault of the test before is over."""
    running.wait_level()
    return running


@pytest.fixture
def sql(breakable: BreakableServers) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection to the log."""
    with psycopg.connect(breakable.postgres.url, autocommit=True) as connection:
        yield connection
