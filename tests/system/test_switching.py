"""Rebuild, undo and prune by the real command line, on a real service, while clients read and write."""

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

from cli.dev.processes import ROOT
from tests.support.breakable_servers import wait_until
from tests.support.servers import Service, running_service

STARS = [f"star-{n}" for n in range(3)]
FANS = [f"fan-{n}" for n in range(12)]
# After each command, every client makes so many more rounds.
ROUNDS_AFTER_COMMAND = 5
# A pause between a client's rounds, so that the clients do not take all the processor time.
PAUSE_S = 0.05


class Client:
    """Repeats a round of requests in a thread of its own, and counts the successful rounds."""

    def __init__(self, pool: ThreadPoolExecutor, play_round: Callable[[], None]) -> None:
        self.rounds = 0
        self._play_round, self._stopping = play_round, threading.Event()
        self._finished: Future[None] = pool.submit(self._run)

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopping.set()
        wait((self._finished,))

    def wait_for_rounds(self, count: int) -> None:
        """Return after ``count`` more rounds; raise the error of a round that failed."""
        wanted = self.rounds + count
        wait_until(lambda: self._finished.done() or self.rounds >= wanted)
        if self._finished.done():
            self._finished.result()

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            self._play_round()
            self.rounds += 1


@pytest.fixture
def service(database_url: str, redis_url: str, queue_url: str, service_folder: Path) -> Iterator[Service]:
    """Two workers and one web process, with lists that never change."""
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
    """Return a round that reads one of the lists in both dialects; it must be complete."""
    stars = itertools.cycle(STARS)

    def play_round() -> None:
        star = next(stars)
        answer = http.get(f"/v1/users/{star}/followers?per_page=100")
        assert answer.status_code == 200, answer.text
        assert {row["id"] for row in answer.json()["data"]} == set(FANS) and answer.json()["pagination"]["total"] == 12
        login = http.get(f"/v1/users/{star}").json()["username"]
        answer = http.get(f"/kraken/channels/{login}/follows?limit=100")
        assert answer.status_code == 200, answer.text
        assert answer.json()["_total"] == len(answer.json()["follows"]) == 12

    return play_round


def writing(http: httpx.Client) -> Callable[[], None]:
    """Return a round that follows or unfollows, then reads the follow; the read must show the command."""
    begins = itertools.cycle([True, False])

    def play_round() -> None:
        follows = next(begins)
        answer = http.request("POST" if follows else "DELETE", "/v1/users/other/follow")
        assert answer.status_code == (201 if follows else 204), answer.text
        answer = http.get("/v1/users/other/follow-status")
        assert answer.status_code == 200 and answer.json()["is_following"] is follows, answer.text

    return play_round


@contextmanager
def under_load(service: Service) -> Iterator[list[Client]]:
    """Run one reading and two writing clients until the block ends; raise the error of a client that failed."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(3))
        reader, ann, bob = (stack.enter_context(service.client(name)) for name in ("reader", "ann", "bob"))
        clients = [Client(pool, play_round) for play_round in (reading(reader), writing(ann), writing(bob))]
        try:
            yield clients
        finally:
            for client in clients:
                client.stop()
        for client in clients:
            client.wait_for_rounds(0)


def test_rebuild_undo_and_prune_change_no_answer(service: Service) -> None:
    """No error, no list that is short or empty, no follow that its user does not see: P4, P5 and P6 from outside."""

    def follows(*words: object) -> Any:
        command = [sys.executable, "-m", "cli", *map(str, words), "--json"]
        done = subprocess.run(
            command, env=dict(service.environment), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for client in clients:
            client.wait_for_rounds(ROUNDS_AFTER_COMMAND)
        return json.loads(done.stdout)

    with under_load(service) as clients:
        first = follows("rebuild", "--partitions", 16)
        assert follows("undo-switch")["generation"] < first["generation"]
        assert follows("undo-switch") == first
        last = follows("rebuild", "--workers", 2)
        assert last["generation"] > first["generation"] and last["partitions"] == 64
        assert list(follows("generations", "prune")) == [str(first["generation"])]
        assert follows("verify")["found"] == 0
        assert [row["number"] for row in follows("generations") if row["live"]] == [last["generation"]]
