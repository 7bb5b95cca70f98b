"""Web and worker processes refuse to start when it is not safe: they exit with one sentence and no traceback."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from cli.dev.dev_key import JWKS_FILE
from cli.dev.processes import program
from cli.dev.supervisor import start_program
from tests.support.servers import free_port

EXIT_TIMEOUT_S = 60


def run_to_exit(name: str, settings: Mapping[str, str]) -> tuple[int, str]:
    """Run a process of the service until it exits; return its code and output."""
    child = start_program(program(name, {**os.environ, **settings}), subprocess.PIPE)
    try:
        output, _ = child.communicate(timeout=EXIT_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return child.returncode, output.decode()


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
def test_start_on_postgres_that_forgets_commits_is_refused(settings: dict[str, str], name: str) -> None:
    """The server of the tests has fsync off."""
    code, output = run_to_exit(name, {**settings, "FOLLOWS_ALLOW_ASYNC_COMMIT": ""})
    assert code == 1
    assert "error: fsync is off" in output and "Traceback" not in output


def test_proxy_that_cannot_be_used_ends_the_start_in_one_line(settings: dict[str, str]) -> None:
    """Unless it is not for the key server."""
    proxy = {"ALL_PROXY": "socks5://127.0.0.1:1080", "NO_PROXY": "", "FOLLOWS_JWKS": "http://127.0.0.1:1/jwks.json"}
    code, output = run_to_exit("web", {**settings, **proxy})
    assert code == 1
    assert "error: the key server of FOLLOWS_JWKS cannot be asked through the proxy" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["web", "worker"])
def test_unknown_log_level_ends_the_start_in_one_line(settings: dict[str, str], name: str) -> None:
    code, output = run_to_exit(name, {**settings, "FOLLOWS_LOG_LEVEL": "verbose"})
    assert code == 1
    assert "error: FOLLOWS_LOG_LEVEL must be one of DEBUG, INFO" in output and "Traceback" not in output


@pytest.mark.parametrize("name", ["web", "worker"])
def test_start_without_database_url_is_refused(settings: dict[str, str], name: str) -> None:
    code, output = run_to_exit(name, {**settings, "DATABASE_URL": ""})
    assert code == 1
    assert "error: DATABASE_URL is not set" in output and "Traceback" not in output
