"""One log that feeds two Redis, as in a move from one to the other: web processes of both, workers of both."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.beside import beside, client
from tests.support.breakable_servers import wait_until
from tests.support.servers import Servers, Service, running_service

USERS = 8
UNFED = "no worker feeds this read store"


@contextmanager
def two_redis(servers: Servers, database_url: str, redis_url: str, queue_url: str, folder: Path) -> Iterator[Any]:
    """Yield two ready services on one log and one queue; each has a Redis, a worker and a web process of its own."""
    (folder / "one").mkdir(mode=0o700)
    with running_service(database_url, redis_url, queue_url, folder / "one") as one:
        with one.client("platform", "service") as platform:
            for number in range(USERS):
                assert platform.put(f"/v1/users/u{number}", json={}).status_code == 201
        with beside(one, folder / "two", REDIS_URL=servers.valkey_url(15)) as two:
            two.start("worker")
            two.start("web")
            two.wait_ready()
            yield one, two


def follows(service: Service, *words: str) -> Any:
    """Run a command of the command line with the service's settings; return its JSON."""
    command = [sys.executable, "-m", "cli", *words, "--json"]
    done = subprocess.run(command, env=dict(service.environment), capture_output=True, check=True)
    return json.loads(done.stdout)


def read(key: Service, at: Service, user: str) -> httpx.Response:
    with client(key, at, user) as caller:
        return caller.get("/v1/users/u0/follow-status")


@pytest.fixture
def moving(servers: Servers, database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Iterator[Any]:
    with two_redis(servers, database_url, redis_url, queue_url, tmp_path) as services:
        yield services


def test_own_follow_is_shown_through_either_redis_or_503(moving: tuple[Service, Service]) -> None:
    """The second Redis is paused, so its web process learns of a follow only by looks at the log."""
    one, two = moving
    store = follows(two, "pause", "--why", "a test")["store"]
    other_store = follows(one, "resume")["store"]  # ends nothing, and says which Redis it is for
    assert store and other_store and store != other_store
    with client(one, two, "probe") as probe:
        methods = itertools.cycle((probe.post, probe.delete))

        def is_paused() -> bool:
            next(methods)("/v1/users/u0/follow")
            return probe.get("/v1/users/u0/follow-status").status_code == 503

        wait_until(is_paused)
    for number in range(1, USERS):
        with client(one, one, f"u{number}") as caller:
            assert caller.post("/v1/users/u0/follow").status_code == 201
        other = read(one, two, f"u{number}")
        assert other.status_code == 503 or other.json()["is_following"], f"u{number}: {other.text}"
        own = read(one, one, f"u{number}")
        assert own.status_code == 200 and own.json()["is_following"], own.text
    assert follows(two, "resume") == {"paused": False, "was_paused": True, "store": store}
    wait_until(lambda: read(one, two, "u1").status_code == 200)
    assert all(read(one, two, f"u{number}").json()["is_following"] for number in range(1, USERS))


def test_redis_whose_workers_have_ended_is_not_read_while_the_other_is_fed(moving: tuple[Service, Service]) -> None:
    """Then commands are fast again."""
    one, two = moving
    one.stop("worker")
    wait_until(lambda: UNFED in httpx.get(f"{one.base_url}/health/ready", trust_env=False).text)
    assert UNFED in read(one, one, "u1").text
    with client(one, two, "u1") as caller:
        methods = {201: caller.post, 204: caller.delete}

        def is_fast() -> bool:
            took = []
            for status, call in methods.items():
                began = time.monotonic()
                assert call("/v1/users/u0/follow").status_code == status
                took.append(time.monotonic() - began)
            return max(took) < 0.5

        wait_until(is_fast)
    one.start("worker")
    one.wait_ready()
    found = follows(one, "status"), follows(two, "status")
    assert [status["problems"] for status in found] == [[], []]
    assert found[0]["view"]["generation"] != found[1]["view"]["generation"]
