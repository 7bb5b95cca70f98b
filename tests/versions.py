"""Run another commit beside this checkout, over a migration, in both orders: ``python -m tests.versions [COMMIT]``.

Both run with this checkout's packages on one PostgreSQL and one Valkey. The other commit comes from git, which must
have it. This is not part of ``make test``, since a shallow clone has one commit only.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cli.dev.processes import ROOT
from tests.support.breakable_servers import wait_until
from tests.support.servers import NOT_DURABLE, Service, real_servers, running_service

# The oldest commit with a database that this version migrates, two migrations ago.
BASE: Final = "758e97b"
# The processes of the second service in a folder.
SECOND: Final = ("web-2", "worker-2")


class Versions:
    """The other commit and this checkout, on one empty database and one Valkey."""

    def __init__(self, other: Path, folder: Path, urls: tuple[str, str, str]) -> None:
        self._other, self._folder, self._urls = other, folder, urls

    def migrate(self, root: Path) -> str:
        """Run `follows migrate` of a checkout; return what it prints."""
        environment = {**os.environ, **NOT_DURABLE, "DATABASE_URL": self._urls[0]}
        command = [sys.executable, "-m", "cli", "migrate"]
        return subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout

    def old_first(self) -> None:
        """Start the other commit, migrate under it, and put this checkout beside it."""
        self.migrate(self._other)
        with running_service(*self._urls, self._folder, root=self._other) as other:
            register(other)
            follow(other, "POST", "bob", 201)
            print(self.migrate(ROOT), end="")
            follow(other, "POST", "cat", 201)
            with running_service(*self._urls, self._folder, processes=SECOND) as this:
                both_serve(this, other)
                other.stop("worker")
                both_serve(this, other)

    def new_first(self) -> None:
        """Start this checkout, and the other commit beside it, as after a rollback."""
        self.migrate(ROOT)
        with running_service(*self._urls, self._folder) as this:
            register(this)
            for user in ("bob", "cat"):
                follow(this, "POST", user, 201)
            with running_service(*self._urls, self._folder, processes=SECOND, root=self._other) as other:
                both_serve(this, other)
            both_serve(this, this)


def register(service: Service) -> None:
    """Register the users of the test."""
    with service.client("platform", "service") as platform:
        for user in ("ann", "bob", "cat"):
            assert platform.put(f"/v1/users/{user}", json={}).status_code == 201


def follow(service: Service, method: str, followed: str, status: int) -> None:
    """Send a command of ann."""
    with service.client("ann") as client:
        found = client.request(method, f"/v1/users/{followed}/follow")
    assert found.status_code == status, found.text


def both_serve(one: Service, two: Service) -> None:
    """Check that each shows, and ends, what the other has begun."""
    for writer, reader in ((one, two), (two, one)):
        follow(writer, "DELETE", "bob", 204)
        shows(reader, False)
        follow(reader, "POST", "bob", 201)
        shows(writer, True)


def shows(service: Service, expected: bool) -> None:
    """Check what ann reads of bob, as soon as it can be read."""
    with service.client("ann") as client:
        wait_until(lambda: client.get("/v1/users/bob/follow-status").status_code == 200)
        assert client.get("/v1/users/bob/follow-status").json()["is_following"] is expected


def check_out(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"git has no commit {commit}: fetch it, or name another one with BASE=COMMIT")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def main() -> None:
    """Run both orders, each on an empty database."""
    commit = sys.argv[1] if sys.argv[1:] else BASE
    os.environ |= NOT_DURABLE
    with tempfile.TemporaryDirectory(prefix="versions-") as name:
        folder = Path(name)
        (folder / "checkout").mkdir()
        check_out(commit, folder / "checkout")
        with real_servers(folder) as servers:
            orders: tuple[Callable[[Versions], None], ...] = (Versions.old_first, Versions.new_first)
            for number, order in enumerate(orders):
                own = folder / order.__name__
                own.mkdir(mode=0o700)
                servers.administer(f"CREATE DATABASE {order.__name__}")
                views, queue = servers.valkey_url(2 * number), servers.valkey_url(2 * number + 1)
                order(Versions(folder / "checkout", own, (servers.database_url(order.__name__), views, queue)))
                print(f"{commit} beside this checkout, {order.__name__.replace('_', ' ')}: no wrong answer", flush=True)


if __name__ == "__main__":
    main()
