"""`follows up` as a process that a test starts, reads and ends."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from cli.dev.dev_key import sign
from cli.dev.orphans import RECORD, stop_orphans
from cli.dev.processes import ROOT
from tests.support.servers import free_port

SERVERS = (
    *("DATABASE_URL", "REDIS_URL", "QUEUE_URL", "FOLLOWS_DATA"),
    *("FOLLOWS_JWKS", "FOLLOWS_ISSUER", "FOLLOWS_AUDIENCE", "FOLLOWS_ENV"),
)
STOP_TIMEOUT_S = 60


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
        """Return the next line's match of ``pattern``; fails with all lines when there is none."""
        for line in output_of(self.process):
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines))

    def ask(self, method: str, path: str, user: str, role: str = "user", **more: Any) -> httpx.Response:
        """Send a request as ``user``, with a token of the data folder's key."""
        token = sign(self.folder, user, role=role)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, self.address + path, headers=headers, trust_env=False, timeout=30, **more)

    def ready(self) -> "Up":
        """Return when it says that it is ready."""
        self.address = self.read_until(r"Follows is ready at (\S+)")[1]
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, read the remaining output, and return the exit code."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=STOP_TIMEOUT_S)
        self.lines += rest.splitlines()
        return self.process.returncode

    def pids(self) -> dict[str, int]:
        """Return name -> process id of its processes."""
        return {name: int(values[0]) for name, values in json.loads((self.folder / RECORD).read_text()).items()}


@contextmanager
def up(folder: Path, *arguments: str, **environment: str) -> Iterator[Up]:
    """Start `follows up`, and end all its processes when the block ends."""
    started = Up(folder, ["--port", str(free_port()), *arguments], environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()
        output_of(started.process).close()
        if folder.exists():
            stop_orphans(folder)


def output_of(process: subprocess.Popen[str]) -> IO[str]:
    """Return the standard output of a process that was started with a pipe for it."""
    assert process.stdout is not None
    return process.stdout
