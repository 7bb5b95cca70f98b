"""Processes of this version and of the next one on one Postgres and one Redis: an upgrade, and the way back."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg

from tests.support.breakable_servers import wait_until
from tests.support.log_writes import rows
from tests.support.servers import Service, running_service
from tests.support.unreadable_events import write_unreadable
from tests.support.versions import NEWER_REVISION, NEWER_VERSION

NUMBERS = "SELECT number FROM users WHERE id IN ('ann', 'bob') ORDER BY id"
PARKED = "SELECT count(*) FROM parked"


def migrate(database_url: str, version: Mapping[str, str]) -> str:
    """Run `follows migrate` of a version; return what it prints."""
    environment = {**os.environ, **version, "DATABASE_URL": database_url}
    command = [sys.executable, "-m", "cli", "migrate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def follows(service: Service, method: str, followed: str, status: int) -> str:
    """Send a command of ann about a follow; return the text of the answer."""
    with service.client("ann") as client:
        found = client.request(method, f"/v1/users/{followed}/follow")
    assert found.status_code == status, found.text
    return found.text


def is_following(service: Service, followed: str) -> bool:
    """Return what ann reads of a follow, as soon as it can be read."""
    with service.client("ann") as client:
        wait_until(lambda: client.get(f"/v1/users/{followed}/follow-status").status_code == 200)
        answer: bool = client.get(f"/v1/users/{followed}/follow-status").json()["is_following"]
        return answer


def test_upgrade_beside_running_processes_and_back(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """The newer schema comes first, then the newer processes. What only they can read is 503 in the older ones."""
    here = database_url, redis_url, queue_url, service_folder
    with psycopg.connect(database_url, autocommit=True) as sql, running_service(*here) as this:
        with this.client("platform", "service") as platform:
            for user in ("ann", "bob", "cat", "dan", "eve"):
                assert platform.put(f"/v1/users/{user}", json={}).status_code == 201
        follows(this, "POST", "bob", 201)
        assert migrate(database_url, NEWER_VERSION) == f"the database is at revision {NEWER_REVISION}\n"
        follows(this, "POST", "cat", 201)

        ann, bob = (row[0] for row in rows(sql, NUMBERS))
        write_unreadable(sql, (ann, bob), 2, "UserMuted")
        wait_until(lambda: rows(sql, PARKED) == [(1,)])
        assert "set aside" in follows(this, "DELETE", "bob", 503)
        follows(this, "POST", "dan", 201)

        with running_service(*here, processes=("web-2", "worker-2"), environment=NEWER_VERSION) as next_:
            wait_until(lambda: rows(sql, PARKED) == [(0,)])
            assert not is_following(next_, "bob") and not is_following(this, "bob")
            follows(next_, "POST", "bob", 201)
            assert is_following(this, "bob") and is_following(next_, "dan")
            follows(this, "DELETE", "bob", 204)
            for name in ("web", "worker"):
                this.stop(name)
            follows(next_, "POST", "eve", 201)

            for name in ("web", "worker"):  # a rollback: this version starts on the newer schema
                this.start(name)
            this.wait_ready()
            told = migrate(database_url, {})
            assert told.startswith("the database is newer than this version, which may run on it"), told
            assert is_following(this, "eve") and not is_following(this, "bob")
            follows(next_, "POST", "bob", 201)
        follows(this, "DELETE", "eve", 204)
        assert is_following(this, "bob") and not is_following(this, "eve")
