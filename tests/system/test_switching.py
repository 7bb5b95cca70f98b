"""Rebuild, undo and prune by the real command line, on a real service, under clients who read and write meanwhile."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.procfile import ROOT
from tests.breakable import wait_until
from tests.servers import Service, running_service

STARS = [f"star-{n}" for n in range(3)]
FANS = [f"fan-{n}" for n in range(12)]
# So many answers more of each client say that it has seen what has been done.
ENOUGH = 15
# The clients leave the machine some time for those whom this is about.
BETWEEN_S = 0.01


class Client:
    """Does the same thing over and over in a thread of its own, and counts how often it went well."""

    def __init__(self, pool: ThreadPoolExecutor, once: Callable[[], None]) -> None:
        self.count = 0
        self._once, self._ending = once, threading.Event()
        self._done: Future[None] = pool.submit(self._go_on)

    def end(self) -> None:
        """Stop after what it is just doing."""
        self._ending.set()
        wait((self._done,))

    def go_on_for(self, count: int) -> None:
        """Return when it has gone well so many times more; raises what went wrong."""
        wanted = self.count + count
        wait_until(lambda: self._done.done() or self.count >= wanted)
        if self._done.done():
            self._done.result()  # raises, if it has not been ended

    def _go_on(self) -> None:
        while not self._ending.wait(BETWEEN_S):
            self._once()
            self.count += 1


@pytest.fixture
def service(database_url: str, redis_url: str, queue_url: str, service_folder: Path) -> Iterator[Service]:
    """Two workers, one web process, and lists of which nothing ever changes."""
    processes = ("web", "worker", "worker-2")
    with running_service(database_url, redis_url, queue_url, service_folder, processes=processes) as service:
        with service.client("platform", "service") as platform:
            for user in [*STARS, "other"]:
                assert platform.put(f"/v1/users/{user}", json={}).status_code == 201
        for fan in FANS:
            with service.client(fan) as client:
                assert {client.post(f"/v1/users/{star}/follow").status_code for star in STARS} == {201}
        yield service


def reading(http: httpx.Client) -> Callable[[], None]:
    """Each list in turn, through both dialects: always whole."""
    stars = itertools.cycle(STARS)

    def once() -> None:
        star = next(stars)
        answer = http.get(f"/v1/users/{star}/followers?per_page=100")
        assert answer.status_code == 200, answer.text
        assert {row["id"] for row in answer.json()["data"]} == set(FANS) and answer.json()["pagination"]["total"] == 12
        login = http.get(f"/v1/users/{star}").json()["username"]
        answer = http.get(f"/kraken/channels/{login}/follows?limit=100")
        assert answer.status_code == 200, answer.text
        assert answer.json()["_total"] == len(answer.json()["follows"]) == 12

    return once


def writing(http: httpx.Client) -> Callable[[], None]:
    """Follow and unfollow, and see at once what was done."""
    begins = itertools.cycle([True, False])

    def once() -> None:
        follows = next(begins)
        answer = http.request("POST" if follows else "DELETE", "/v1/users/other/follow")
        assert answer.status_code == (201 if follows else 204), answer.text
        answer = http.get("/v1/users/other/follow-status")
        assert answer.status_code == 200 and answer.json()["is_following"] is follows, answer.text

    return once


@contextmanager
def under_load(service: Service) -> Iterator[list[Client]]:
    """One who reads and two who write, until the block ends; raises what one of them has seen."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(3))
        onlooker, ann, bob = (stack.enter_context(service.client(name)) for name in ("onlooker", "ann", "bob"))
        clients = [Client(pool, work) for work in (reading(onlooker), writing(ann), writing(bob))]
        try:
            yield clients
        finally:
            for client in clients:
                client.end()
        for client in clients:
            client.go_on_for(0)


def test_nobody_notices_what_the_operators_do(service: Service) -> None:
    """No error, no list that is short or empty, no follow that is not seen: P4, P5 and P6, from the outside."""

    def follows(*words: object) -> Any:
        command = [sys.executable, "-m", "cli", *map(str, words), "--json"]
        done = subprocess.run(
            command, env=dict(service.environment), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for client in clients:
            client.go_on_for(ENOUGH)
        return json.loads(done.stdout)

    with under_load(service) as clients:
        first = follows("rebuild", "--lanes", 16)
        assert follows("undo-switch")["generation"] < first["generation"]
        assert follows("undo-switch") == first
        last = follows("rebuild", "--workers", 2)
        assert last["generation"] > first["generation"] and last["lanes"] == 64
        assert list(follows("generations", "prune")) == [str(first["generation"])]
        assert follows("verify")["found"] == 0
        assert [row["number"] for row in follows("generations") if row["seen"]] == [last["generation"]]
