"""`follows up` as a process that is started, used, stopped, killed, and started again."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from cli.dev.processes import ROOT
from tests.support.breakable_servers import wait_until
from tests.support.running_up import SERVERS, STOP_TIMEOUT_S, Up, output_of, up
from tests.support.servers import free_port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a space in its path."""
    return tmp_path / "my data"


def test_up_starts_serves_and_stops_in_order(folder: Path) -> None:
    with up(folder) as first:
        first.ready()
        first.read_until("the data is kept")
        answers = [_run_curl(line) for line in first.lines if line.startswith("curl ")]
        assert [answer.status_code for answer in answers] == [200, 200, 201]
        assert answers[0].json()["is_following"] is True
        assert answers[1].json()["pagination"]["total_pages"] > 1
        [shown] = [line for line in first.lines if line.startswith("Metrics: ")]
        addresses = dict(re.findall(r"(\w+) (http://\S+/metrics)", shown))
        assert list(addresses) == ["web", "worker", "rebuilder"]
        assert all("follows_process_ready" in httpx.get(address).text for address in addresses.values())
        token = next(line for line in first.lines if line.startswith("eyJ"))
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{first.address}/v1/users/me/following", headers=headers).status_code == 200

        _assert_refused(folder, f"already running on {re.escape(str(folder))} \\(process {first.process.pid}\\)")
        status = _follows("migrate", FOLLOWS_DATA=str(folder))
        assert status.returncode == 0, status.stderr

        children = first.pids()
        assert list(children) == ["postgres", "valkey", "rebuilder", "worker", "web"]
        assert first.end() == 0
        stops = [line.partition("| ")[2] for line in first.lines if "| stopping" in line]
        assert stops == [f"stopping {name}" for name in reversed(children)]
        assert first.lines[-1] == "Stopped."
        assert [line for line in first.lines if re.search("WARNING|ERROR|warning", line)] == []
        assert not any(_runs(pid) for pid in children.values())
        assert _follows("migrate", FOLLOWS_DATA=str(folder)).returncode == 1


def test_up_does_not_use_libpq_settings_for_its_own_server(folder: Path) -> None:
    """Nor do its processes, or a tool that finds it."""
    foreign = {
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": "6000",
        "PGSERVICE": "nothing",
        "PGOPTIONS": "-c search_path=nowhere",
        "PGSSLMODE": "verify-full",
        "PGUSER": "nobody",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCHANNELBINDING": "require",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGREQUIREPEER": "nobody",
        "PGGSSENCMODE": "require",
        "PGAPPNAME": "other",
    }
    with up(folder, "--no-demo", **foreign) as running:
        running.ready()
        assert running.ask("PUT", "/v1/users/ann", "registry", "service", json={}).status_code == 201
        status = _follows("history", "ann", FOLLOWS_DATA=str(folder), **foreign)
        assert status.returncode == 0, status.stderr
        assert running.end() == 0


def test_up_after_a_kill_ends_the_orphans_and_has_the_data(folder: Path) -> None:
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
            assert (
                second.lines[0]
                == "Ended processes of an earlier run that was killed: web, worker, rebuilder, valkey, postgres"
            )
            assert not any(_runs(pid) for pid in left.values())
            assert followed["is_following"] is True
            assert second.ask("GET", "/v1/users/bob/follow-status", "ann").json() == followed
            assert second.end(signal.SIGINT) == 0


def test_killed_processes_are_started_again(folder: Path) -> None:
    with up(folder, "--no-demo") as running:
        running.ready()
        assert running.ask("PUT", "/v1/users/ann", "registry", "service", json={}).status_code == 201
        before = running.pids()
        os.kill(before["worker"], signal.SIGKILL)
        running.read_until("worker was killed by signal 9; starting it again")
        os.kill(before["postgres"], signal.SIGKILL)
        running.read_until("postgres was killed by signal 9; starting it again")
        os.kill(before["web"], signal.SIGKILL)
        running.read_until("web was killed by signal 9; starting it again")
        running.read_until("Started worker-1")
        wait_until(lambda: is_found(running, "ann"))
        assert running.end(signal.SIGHUP) == 0


def is_found(running: Up, user: str) -> bool:
    """Return whether a user finds their own profile; until PostgreSQL is back, the answer is 503."""
    found = running.ask("GET", f"/v1/users/{user}", user).status_code
    assert found in (200, 503)
    return found == 200


def test_given_servers_are_used(folder: Path, database_url: str, redis_url: str, queue_url: str) -> None:
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    with up(folder, **given) as running:
        running.ready()
        assert list(running.pids()) == ["rebuilder", "worker", "web"]
        assert not (folder / "postgres").exists()
        assert not (folder / "valkey").exists()
        output_of(running.process).close()  # its output is closed, and it goes on without printing
        assert running.ask("GET", "/v1/users/me/following", "ann").json()["data"] == []
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(STOP_TIMEOUT_S) == 0


def test_stop_during_the_start_is_orderly(folder: Path) -> None:
    with up(folder, "--no-demo") as running:
        running.read_until("Starting Follows")
        assert running.end(signal.SIGINT) == 0
        assert running.lines[-1] == "Stopped."
        assert running.pids() == {}


def test_with_parent_stops_when_the_parent_ends(folder: Path) -> None:
    command = [sys.executable, "-m", "cli", "up", "--with-parent", "--no-demo", "--port", "0", "--data", str(folder)]
    script = f"{shlex.join(command)}; true"  # the shell stays its parent
    with subprocess.Popen(["sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert "Starting Follows" in output_of(parent).readline()
        parent.kill()
        assert "Stopped." in output_of(parent).read()


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        ([], {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x"}, "PostgreSQL cannot be used: .*refused"),
        ([], {"DATABASE_URL": "mysql://x"}, "must begin with postgresql://"),
        (["--host", "203.0.113.1"], {}, "cannot listen on 203.0.113.1 port"),
        (["--data", "/dev/null/data"], {}, "Not a directory: /dev/null/data"),
    ],
)
def test_unusable_option_or_server_is_refused_in_one_line(
    folder: Path, arguments: list[str], environment: dict[str, str], reason: str
) -> None:
    _assert_refused(folder, reason, *arguments, **environment)


def test_taken_port_is_refused_before_anything_starts(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _assert_refused(folder, f"cannot listen on 127.0.0.1 port {port}: Address already in use", "--port", str(port))
    assert not (folder / "postgres").exists()


def _runs(pid: int) -> bool:
    """Return whether a process runs; a zombie that init has not reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _assert_refused(folder: Path, reason: str, *arguments: str, **environment: str) -> None:
    """Assert exit code 1 and one line on standard error that matches ``reason``."""
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
    """Send the request of a printed curl line, on a machine that may have no curl."""
    words = shlex.split(line)
    assert words[:3] == ["curl", "-sS", "-H"]
    name, _, value = Path(words[3].removeprefix("@")).read_text().strip().partition(": ")
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    return httpx.request(method, words[-1], headers={name: value}, trust_env=False, timeout=30)
