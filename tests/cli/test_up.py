"""`follows up` as its user meets it: a process that is started, used, stopped, killed, and started again."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import pytest

from cli.dev_key import sign
from cli.leftovers import RECORD, stop_leftovers
from cli.procfile import ROOT
from tests.breakable import wait_until
from tests.servers import free_port

SERVERS = ("DATABASE_URL", "REDIS_URL", "QUEUE_URL", "FOLLOWS_JWKS", "FOLLOWS_ISSUER", "FOLLOWS_DATA", "FOLLOWS_ENV")
STOP_LIMIT_S = 60


class Up:
    """A running `follows up` and what it printed so far."""

    def __init__(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        kept = {key: value for key, value in os.environ.items() if key not in SERVERS}
        self.folder, self.lines = folder, list[str]()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--data", str(folder), *arguments],
            cwd=ROOT,
            env={**kept, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def read_until(self, pattern: str) -> re.Match[str]:
        """The first line from here on in which ``pattern`` is found; fails with all lines when there is none."""
        for line in _output(self.process):
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines))

    def ask(self, method: str, path: str, user: str, role: str = "user", **more: Any) -> httpx.Response:
        """A request as ``user``, with a token of the data folder's key."""
        token = sign(self.folder, user, role=role)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, self.address + path, headers=headers, trust_env=False, timeout=30, **more)

    def ready(self) -> "Up":
        """Returns when it says that it is."""
        self.address = self.read_until(r"Follows is ready at (\S+)")[1]
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code; what it still printed is kept."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=STOP_LIMIT_S)
        self.lines += rest.splitlines()
        return self.process.returncode

    def pids(self) -> dict[str, int]:
        """Name to number of everything that runs for it."""
        return {name: int(values[0]) for name, values in json.loads((self.folder / RECORD).read_text()).items()}


@contextmanager
def up(folder: Path, *arguments: str, **environment: str) -> Iterator[Up]:
    """A started `follows up`; whatever happens in the test, nothing of it is left running."""
    started = Up(folder, ["--port", str(free_port()), *arguments], environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()
        _output(started.process).close()
        if folder.exists():
            stop_leftovers(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a space in its path."""
    return tmp_path / "my data"


def test_it_comes_up_is_used_and_stops_in_order(folder: Path) -> None:
    with up(folder) as first:
        first.ready()
        first.read_until("the data stays")
        answers = [_run_curl(line) for line in first.lines if line.startswith("curl ")]
        assert [answer.status_code for answer in answers] == [200, 200, 201]
        assert answers[0].json()["is_following"] is True
        assert answers[1].json()["pagination"]["total_pages"] > 1
        token = next(line for line in first.lines if line.startswith("eyJ"))
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{first.address}/v1/users/me/following", headers=headers).status_code == 200

        _assert_refused(folder, f"already running on {re.escape(str(folder))} \\(process {first.process.pid}\\)")
        status = _follows("migrate", FOLLOWS_DATA=str(folder))
        assert status.returncode == 0, status.stderr

        children = first.pids()
        assert list(children) == ["postgres", "valkey", "web", "worker", "rebuilder"]
        assert first.end() == 0
        stops = [line.partition("| ")[2] for line in first.lines if "| stopping" in line]
        assert stops == ["stopping web", "stopping worker", "stopping rebuilder"]
        assert first.lines[-1] == "Stopped."
        assert not any(_runs(pid) for pid in children.values())
        assert _follows("migrate", FOLLOWS_DATA=str(folder)).returncode == 1


def test_everything_is_back_after_a_kill(folder: Path) -> None:
    with up(folder, "--no-demo") as first:
        first.ready()
        for name in ("ann", "bob"):
            assert first.ask("PUT", f"/v1/users/{name}", "registry", "service", json={}).status_code == 201
        assert first.ask("POST", "/v1/users/bob/follow", "ann").status_code == 201
        followed = first.ask("GET", "/v1/users/bob/follow-status", "ann").json()
        left = first.pids()
        first.process.kill()
        first.process.wait()
        assert all(_runs(pid) for pid in left.values())
        with up(folder, "--no-demo") as second:
            second.ready()
            assert second.lines[0] == "Ended what an earlier run left behind: rebuilder, worker, web, valkey, postgres"
            assert not any(_runs(pid) for pid in left.values())
            assert followed["is_following"] is True
            assert second.ask("GET", "/v1/users/bob/follow-status", "ann").json() == followed
            assert second.end(signal.SIGINT) == 0


def test_what_is_killed_is_started_again(folder: Path) -> None:
    with up(folder, "--no-demo") as running:
        running.ready()
        assert running.ask("PUT", "/v1/users/ann", "registry", "service", json={}).status_code == 201
        before = running.pids()
        os.kill(before["worker"], signal.SIGKILL)
        running.read_until("worker was killed by signal 9; starting it again")
        os.kill(before["postgres"], signal.SIGKILL)
        running.read_until("postgres ended unasked; starting it again")
        os.kill(before["web"], signal.SIGKILL)
        running.read_until("web was killed by signal 9; starting it again")
        running.read_until("Started worker-1")
        wait_until(lambda: is_found(running, "ann"))
        assert running.end(signal.SIGHUP) == 0


def is_found(running: Up, user: str) -> bool:
    """Whether a user is shown to himself; 503 while Postgres is not there yet, since Redis is new."""
    found = running.ask("GET", f"/v1/users/{user}", user).status_code
    assert found in (200, 503)
    return found == 200


def test_given_servers_are_used(folder: Path, database_url: str, redis_url: str, queue_url: str) -> None:
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    with up(folder, **given) as running:
        running.ready()
        assert list(running.pids()) == ["web", "worker", "rebuilder"]
        assert not (folder / "postgres").exists()
        assert not (folder / "valkey").exists()
        _output(running.process).close()  # nobody reads any more: it goes on without a word
        assert running.ask("GET", "/v1/users/me/following", "ann").json()["data"] == []
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(STOP_LIMIT_S) == 0


def test_a_wish_to_stop_while_starting_is_heard(folder: Path) -> None:
    with up(folder, "--no-demo") as running:
        running.read_until("Starting Follows")
        assert running.end(signal.SIGINT) == 0
        assert running.lines[-1] == "Stopped."
        assert running.pids() == {}


def test_it_ends_with_its_parent_when_told_to(folder: Path) -> None:
    command = [sys.executable, "-m", "cli", "up", "--with-parent", "--no-demo", "--port", "0", "--data", str(folder)]
    script = f"{shlex.join(command)}; true"  # the shell stays its parent
    with subprocess.Popen(["sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert "Starting Follows" in _output(parent).readline()
        parent.kill()
        assert "Stopped." in _output(parent).read()


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        ([], {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x"}, "PostgreSQL cannot be used: .*refused"),
        ([], {"DATABASE_URL": "mysql://x"}, "must begin with postgresql://"),
        (["--host", "203.0.113.1"], {}, "cannot listen on 203.0.113.1 port"),
        (["--data", "/dev/null/data"], {}, "Not a directory: /dev/null/data"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    folder: Path, arguments: list[str], environment: dict[str, str], reason: str
) -> None:
    _assert_refused(folder, reason, *arguments, **environment)


def test_a_taken_port_is_refused_before_anything_starts(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _assert_refused(folder, f"cannot listen on 127.0.0.1 port {port}: Address already in use", "--port", str(port))
    assert not (folder / "postgres").exists()


def _runs(pid: int) -> bool:
    """Whether it is more than an entry that a careless first process has not struck out yet."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _assert_refused(folder: Path, reason: str, *arguments: str, **environment: str) -> None:
    """Exit code 1, and one line on standard error that holds ``reason``."""
    refused = _follows("up", "--data", str(folder), "--port", str(free_port()), *arguments, **environment)
    assert refused.returncode == 1
    assert re.fullmatch(f"follows: .*{reason}.*\n", refused.stderr), refused.stderr


def _follows(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in SERVERS}
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def _run_curl(line: str) -> httpx.Response:
    """What curl would do with a printed line, on a machine that may have none."""
    words = shlex.split(line)
    assert words[:3] == ["curl", "-sS", "-H"]
    name, _, value = Path(words[3].removeprefix("@")).read_text().strip().partition(": ")
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    return httpx.request(method, words[-1], headers={name: value}, trust_env=False, timeout=30)
