"""Log lines of several processes can be put in order, and they name the worker that took leases over."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.servers import Service, running_service

LINE = re.compile(
    r"(?P<at>\S+)Z (?:DEBUG|INFO|WARNING|ERROR) worker@(?P<host>\S+)\[(?P<pid>\d+)\](?:/(?P<owner>[0-9a-f]{8}))? "
    r"[a-zA-Z0-9_.]+ (?P<text>.*)"
)


@pytest.fixture
def two_workers(breakable: BreakableServers, tmp_path: Path) -> Iterator[Service]:
    """A service with two workers, of which a test may kill one."""
    addresses = breakable.postgres.url, breakable.valkey.url, breakable.queue_url
    with running_service(*addresses, tmp_path, processes=("web", "worker", "worker-2")) as service:
        yield service


def lines(service: Service, name: str) -> list[dict[str, Any]]:
    """Return the parts of each line of a process' log; fails on a line of another form."""
    found = [LINE.fullmatch(line) for line in (service.folder / f"{name}.log").read_text().splitlines()]
    return [line.groupdict() for line in found if line] if all(found) else []


def status(service: Service) -> dict[str, Any]:
    """Return what `follows status --json` prints."""
    command = [sys.executable, "-m", "cli", "status", "--json"]
    done = subprocess.run(command, env=dict(service.environment), capture_output=True, text=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def alive(service: Service) -> dict[int, dict[str, Any]]:
    """Return pid -> worker, of those that `follows status` shows as alive."""
    workers = [worker for worker in status(service)["workers"] if worker["is_alive"] and worker["projects"]]
    return {int(worker["process"].split()[1]): worker for worker in workers}


def test_log_names_who_takes_leases_over(two_workers: Service) -> None:
    """By the ids, host and pid that the status has."""
    first, second = (two_workers.processes[name].pid for name in ("worker", "worker-2"))
    wait_until(lambda: [len(one["lease_groups"]) for one in alive(two_workers).values()] == [4, 4])
    owners = {pid: worker["owner"] for pid, worker in alive(two_workers).items()}
    assert owners.keys() == {first, second}
    for name, pid in (("worker", first), ("worker-2", second)):
        last = lines(two_workers, name)[-1]
        assert (last["pid"], last["owner"], last["host"]) == (str(pid), owners[pid][:8], os.uname().nodename)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(f"{last['at']}+00:00")).total_seconds()) < 120
    two_workers.kill("worker-2")
    gone = (
        f"worker {second} on {os.uname().nodename} of owner {owners[second]} stopped renewing its leases: they are free"
    )
    all_groups = "lease groups of this worker: 0, 1, 2, 3, 4, 5, 6, 7 (before: "

    def has_taken_over() -> bool:
        texts = [line["text"] for line in lines(two_workers, "worker")]
        return gone in texts and any(text.startswith(all_groups) for text in texts[texts.index(gone) :])

    wait_until(has_taken_over)
    two_workers.processes["worker"].send_signal(signal.SIGTERM)
    two_workers.processes["worker"].wait(30)
    ends = "this worker has given its leases back: lease groups 0, 1, 2, 3, 4, 5, 6, 7"
    assert lines(two_workers, "worker")[-1]["text"] == ends
