"""A restart of everything, one process after the other, under load: nobody notices, and no job is lost."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest

from cli.dev_key import ensure_dev_key
from tests.breakable import wait_until
from tests.servers import STOP_LIMIT_S, Service, running_service

CLIENTS = 6
ERASED = 4
FANS = 20
# So many commands of one process can be in Postgres at a time.
COMMITTERS = 2
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@dataclass
class Site:
    """Two web and two worker processes on one database."""

    one: Service
    two: Service
    failed: list[str] = field(default_factory=list)
    answered: int = 0
    hung_up: int = 0
    turns: Iterator[int] = field(default_factory=itertools.count)

    @property
    def ports(self) -> tuple[str, str]:
        """The addresses of both web processes."""
        return self.one.base_url, self.two.base_url

    def send(self, method: str, path: str, token: str) -> httpx.Response:
        """Ask one of the two on a connection of its own; the other when nobody listens there, or it hangs up without
        a word, as a server that ends does before it has read anything. The key makes repeating safe."""
        key = uuid4().hex
        headers = {"Authorization": f"Bearer {token}", "Connection": "close", "Idempotency-Key": key}
        first = next(self.turns) % 2
        for address in (self.ports[first], self.ports[1 - first]):
            try:
                return httpx.request(method, f"{address}{path}", headers=headers, trust_env=False, timeout=30)
            except httpx.ConnectError:
                continue
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                self.hung_up += 1
        raise AssertionError("nobody listens")


@pytest.fixture
def site(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Iterator[Site]:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    jwks = {"FOLLOWS_JWKS": str(ensure_dev_key(folders[0]))}
    urls = database_url, redis_url, queue_url
    with (
        running_service(*urls, folders[0], environment=jwks) as one,
        running_service(*urls, folders[1], processes=("web", "worker-2"), environment=jwks) as two,
    ):
        yield Site(one, two)


@contextmanager
def load(site: Site) -> Iterator[None]:
    """Clients who follow, look and unfollow all the while; what is not as it must be is noted."""
    enough = threading.Event()

    def act(number: int) -> None:
        token = site.one.token(f"client-{number}")
        for method, path, status in itertools.cycle(
            [
                ("POST", "/v1/users/star/follow", 201),
                ("GET", "/v1/users/star/follow-status", 200),
                ("DELETE", "/v1/users/star/follow", 204),
            ]
        ):
            if enough.is_set() and method == "POST":
                return
            try:
                found = site.send(method, path, token)
            except Exception as error:
                site.failed.append(f"{method}: {type(error).__name__}: {error}")
                return
            site.answered += 1
            right = found.status_code == status and (method != "GET" or found.json()["is_following"] is True)
            if not right:
                site.failed.append(f"{method}: {found.status_code} {found.text}")

    threads = [threading.Thread(target=act, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def restart(service: Service, name: str) -> None:
    """Ask a process to end, as a supervisor does, and start it again."""
    service.stop(name)
    service.start(name)
    service.wait_ready()


def test_nobody_notices(site: Site) -> None:
    platform = site.one.token("platform", "service")
    for user in ("star", *(f"client-{n}" for n in range(CLIENTS)), *(f"gone-{n}" for n in range(ERASED))):
        with site.one.client("platform", "service") as client:
            assert client.put(f"/v1/users/{user}", json={}).status_code == 201
    for number in range(ERASED):
        for fan in range(FANS):
            token = site.one.token(f"fan-{fan}")
            assert site.send("POST", f"/v1/users/gone-{number}/follow", token).status_code == 201
    with load(site):
        for number, (service, name) in enumerate(
            [(site.one, "web"), (site.two, "web"), (site.one, "worker"), (site.two, "worker-2")]
        ):
            assert site.send("DELETE", f"/v1/users/gone-{number}", platform).status_code == 204
            restart(service, name)
            before = site.answered
            wait_until(lambda before=before: site.answered > before + 3 * CLIENTS or bool(site.failed))  # type: ignore[misc]
    assert not site.failed, f"{len(site.failed)} of {site.answered + len(site.failed)}: {site.failed[:5]}"
    assert site.hung_up <= 2 * CLIENTS  # at most one of each client's, at each of the two ends
    for fan in range(FANS):  # the erasures' jobs were under way or waiting while the workers went
        with site.one.client(f"fan-{fan}") as client:
            wait_until(lambda client=client: client.get("/v1/users/me/following").json()["data"] == [])  # type: ignore[misc]


def test_what_is_being_done_is_finished_and_answered(site: Site, database_url: str) -> None:
    """Commands that wait for the log when the signal comes are committed and answered before the process ends."""
    with site.one.client("platform", "service") as client:
        assert client.put("/v1/users/star", json={}).status_code == 201
        for number in range(CLIENTS):
            assert client.put(f"/v1/users/client-{number}", json={}).status_code == 201
    answers: list[int] = []

    def follow(number: int) -> None:
        with site.one.client(f"client-{number}") as client:
            answers.append(client.post("/v1/users/star/follow").status_code)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(COMMITTERS)]
    web = site.one.processes["web"]
    with psycopg.connect(database_url, autocommit=True) as log:
        log.execute("SELECT pg_advisory_lock(log_lock())")
        for waiting, thread in enumerate(threads, start=1):
            thread.start()
            wait_until(lambda waiting=waiting: _count(log, WAITING) == waiting)  # type: ignore[misc]
        web.terminate()
        wait_until(lambda: "Stopping worker" in (site.one.folder / "web.log").read_text())
        assert _count(log, "SELECT count(*) FROM events WHERE type = 'UserFollowed'") == 0
        log.execute("SELECT pg_advisory_unlock(log_lock())")
    for thread in threads:
        thread.join()
    assert answers == [201] * COMMITTERS
    assert web.wait(STOP_LIMIT_S) == 0
    site.one.start("web")


def _count(log: "psycopg.Connection[tuple[int]]", statement: str) -> int:
    [(found,)] = log.execute(statement.encode()).fetchall()
    return found
