"""The wheel, in an environment without this checkout and in a folder whose names shadow its packages."""

import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import httpx
import pytest

from cli.dev.dev_key import ensure_dev_key
from cli.dev.processes import PROCESSES, ROOT
from tests.support.breakable_servers import wait_until
from tests.support.running_up import SERVERS, output_of
from tests.support.servers import NOT_DURABLE, free_port

LIMIT_S = 120
PACKAGES = ("api", "cli", "commands", "projections", "queries", "workers")
# What else the build reads.
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def follows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, install it into an environment that has only the locked packages; return its `follows`."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # a build writes into its folder
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, sources)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-qq")
    build = (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources)
    subprocess.run(build, check=True, timeout=LIMIT_S)
    venv.create(folder / "venv", symlinks=True)
    [site_packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    # The packages only: the line there that leads to this checkout is not read.
    (site_packages / "locked.pth").write_text(f"{Path(httpx.__file__).parents[1]}\n")
    [wheel] = folder.glob("follows-*.whl")
    python = folder / "venv" / "bin" / "python"
    install = (*pip, "--python", python, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    subprocess.run(install, check=True, timeout=LIMIT_S)
    return python.with_name("follows")


@pytest.fixture
def shadows(tmp_path: Path) -> Path:
    """Return a folder with packages that fail when they are imported."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """Return this environment without settings of the service."""
    return {name: value for name, value in os.environ.items() if name not in (*SERVERS, "PYTHONPATH")}


def is_ready(port: int) -> bool:
    try:
        state = httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).json()
        return bool(state["reads"] and state["writes"])
    except httpx.TransportError:
        return False


def test_processes_run_in_any_folder(
    follows: Path,
    shadows: Path,
    environment: dict[str, str],
    database_url: str,
    redis_url: str,
    queue_url: str,
) -> None:
    port = free_port()
    environment |= NOT_DURABLE | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "QUEUE_URL": queue_url,
        "FOLLOWS_JWKS": str(ensure_dev_key(shadows / "keys")),
        "FOLLOWS_ISSUER": "follows-dev",
        "FOLLOWS_ENV": "development",
        "FOLLOWS_GRACE_S": "0",
        "FOLLOWS_PORT": str(port),
    }
    subprocess.run((follows, "migrate"), cwd=shadows, env=environment, check=True, timeout=LIMIT_S)
    log = shadows / "log"
    with log.open("wb") as output:
        children = [
            subprocess.Popen((follows, name), cwd=shadows, env=environment, stdout=output, stderr=output)
            for name in PROCESSES
        ]
    try:
        wait_until(lambda: is_ready(port) or any(child.poll() is not None for child in children))
        assert is_ready(port), log.read_text()
        page = httpx.get(f"http://127.0.0.1:{port}/docs", follow_redirects=True, trust_env=False)
        assert page.status_code == 200 and "swagger" in page.text
    finally:
        for child in children:
            child.terminate()
    assert [child.wait(LIMIT_S) for child in children] == [0, 0, 0], log.read_text()


def test_up_runs_in_any_folder(follows: Path, shadows: Path, environment: dict[str, str]) -> None:
    command = (follows, "up", "--data", shadows / "data", "--port", "0", "--no-demo")
    with subprocess.Popen(
        command, cwd=shadows, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as up:
        lines = []
        try:
            for line in output_of(up):
                lines.append(line)
                if found := re.search(r"Follows is ready at \S+:(\d+)", line):
                    break
            else:
                raise AssertionError("".join(lines))
            assert is_ready(int(found[1]))
        finally:
            up.send_signal(signal.SIGINT)
        assert up.stdout is not None and "Stopped." in up.stdout.read()
