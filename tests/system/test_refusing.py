"""Web and worker as processes refuse what would not be safe: they end, with one sentence and no traceback."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from cli.dev_key import JWKS_FILE
from cli.procfile import child_environment, launch
from cli.procfile import commands as procfile
from tests.servers import free_port

LIMIT_S = 60


def ended(name: str, settings: Mapping[str, str]) -> tuple[int, str]:
    """Run a process of the Procfile until it ends by itself; give its code and what it said."""
    environment = child_environment({**os.environ, **settings})
    child = launch(procfile()[name], environment, subprocess.PIPE)
    try:
        said, _ = child.communicate(timeout=LIMIT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return child.returncode, said.decode()


@pytest.fixture
def settings(database_url: str, redis_url: str, queue_url: str, keys: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "QUEUE_URL": queue_url,
        "FOLLOWS_JWKS": str(keys / JWKS_FILE),
        "FOLLOWS_ISSUER": "follows-dev",
        "FOLLOWS_ENV": "development",
        "FOLLOWS_PORT": str(free_port()),
    }


@pytest.mark.parametrize("name", ["web", "worker"])
def test_a_postgres_that_forgets_commits(settings: dict[str, str], name: str) -> None:
    with psycopg.connect(settings["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit TO off".encode())
    code, said = ended(name, settings)
    assert code == 1
    assert "error: synchronous_commit is off" in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["web", "worker"])
def test_no_database_named(settings: dict[str, str], name: str) -> None:
    code, said = ended(name, {**settings, "DATABASE_URL": ""})
    assert code == 1
    assert "error: DATABASE_URL is not set" in said and "Traceback" not in said
