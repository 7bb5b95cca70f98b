"""Tests on servers as distributions package them, which `make test-servers` alone collects.

They install nothing and skip nothing: a run without one of the programs fails, and names it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pgbouncer import Pooler, running_pooler
from tests.support.servers import Servers

# Program -> the Debian package that has it.
PROGRAMS = {
    "haproxy": "haproxy",
    "nginx": "nginx",
    "pgbouncer": "pgbouncer",
    "postgres": "postgresql-15",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-server": "redis-server",
}
HERE = Path(__file__).resolve().parent
# Where they are, which may be outside of an ordinary user's PATH. PostgreSQL's are those of the packaged version.
FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/postgresql/15/bin"


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave these tests out of `make test`."""
    asked_for = (Path(argument.partition("::")[0]).resolve() for argument in config.args)
    return None if any(path.is_relative_to(HERE) for path in asked_for) else True


def pytest_sessionstart() -> None:
    """Fail when a program is missing."""
    missing = {name: package for name, package in PROGRAMS.items() if program(name) is None}
    if missing:
        needed = ", ".join(f"{name} (Debian's package {package})" for name, package in missing.items())
        pytest.exit(f"make test-servers needs programs that are not here: {needed}", returncode=1)


def program(name: str) -> str | None:
    """Return the path of a program, None where it is not installed."""
    return shutil.which(name, path=FOLDERS) or shutil.which(name)


def path_of(name: str) -> str:
    """Return the path of a program that is installed, as `pytest_sessionstart` has made sure."""
    found = program(name)
    assert found
    return found


@pytest.fixture(params=["session", "transaction"])
def pool_mode(request: pytest.FixtureRequest) -> str:
    """Each of the pool modes that work."""
    return str(request.param)


@pytest.fixture
def pooler(pool_mode: str, servers: Servers, tmp_path: Path) -> Iterator[Pooler]:
    """A PgBouncer in front of the run's PostgreSQL."""
    with running_pooler(path_of("pgbouncer"), servers.database, pool_mode, tmp_path / "pooler") as running:
        yield running
