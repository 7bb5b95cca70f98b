"""Restarts of everything, one process after the other, under load: no request fails, and no job is lost."""

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest

from cli.dev_key import ensure_dev_key
from tests.breakable import wait_until
from tests.servers import STOP_LIMIT_S, Service, running_service

CLIENTS = 6
ERASED = 4
FANS = 20
# So long a web process that is told to stop serves on; a balancer looks many times in it, also on a busy machine.
GRACE_S = 2
LOOK_EACH_S = 0.05
# So many commands of one process can be in Postgres at a time.
COMMITTERS = 2
WORKERS = 2
SHARING = "SELECT count(DISTINCT owner) FROM leases WHERE expires_at > clock_timestamp() AND name LIKE 'lanes:%'"
UNFOLLOWED = "SELECT count(*) FROM events WHERE type = 'UserUnfollowed'"
# What a worker says of an erasure that it has come to the end of.
ENDED = "have ended"
ONE, TWO = "one", "two"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

# In which service the job of an erasure stands before the log's lock.
ERASING = """SELECT a.application_name FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
    WHERE l.locktype = 'advisory' AND NOT l.granted AND a.query LIKE '%end_follows(%'"""


@dataclass
class Site:
    """Two web and two worker processes on one database. ``ready`` are the addresses that a balancer sends to now."""

    one: Service
    two: Service
    ready: tuple[str, ...]
    failed: list[str] = field(default_factory=list)
    answered: int = 0
    goodbyes: int = 0
    turns: Iterator[int] = field(default_factory=itertools.count)

    def send(self, client: httpx.Client, method: str, path: str) -> httpx.Response:
        """Ask the next one of those that are ready, once, on a connection that is kept if there is one."""
        ready = self.ready
        found = client.request(method, f"{ready[next(self.turns) % len(ready)]}{path}")
        self.answered += 1
        self.goodbyes += found.headers.get("connection") == "close"
        return found

    def caller(self, user: str, role: str = "user") -> httpx.Client:
        """An ordinary client: it keeps its connections and repeats nothing."""
        headers = {"Authorization": f"Bearer {self.one.token(user, role)}"}
        return httpx.Client(headers=headers, trust_env=False, timeout=30)


@contextmanager
def balancing(site: Site) -> Iterator[None]:
    """Look at both web processes all the while, as a balancer does, and send to those that say they are ready."""
    enough = threading.Event()
    services = (site.one, site.two)

    def look() -> None:
        with httpx.Client(headers={"Connection": "close"}, trust_env=False, timeout=5) as client:
            while not enough.wait(LOOK_EACH_S):
                site.ready = tuple(service.base_url for service in services if _is_ready(client, service))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def _is_ready(client: httpx.Client, service: Service) -> bool:
    try:
        return client.get(f"{service.base_url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def site(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Iterator[Site]:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    given = {"FOLLOWS_JWKS": str(ensure_dev_key(folders[0])), "FOLLOWS_GRACE_S": str(GRACE_S)}
    urls = database_url, redis_url, queue_url
    # With PGAPPNAME Postgres knows whose connection is whose.
    with (
        running_service(*urls, folders[0], environment={**given, "PGAPPNAME": ONE}) as one,
        running_service(
            *urls, folders[1], processes=("web", "worker-2"), environment={**given, "PGAPPNAME": TWO}
        ) as two,
    ):
        site = Site(one, two, (one.base_url, two.base_url))
        with balancing(site):
            yield site


@contextmanager
def load(site: Site) -> Iterator[None]:
    """Clients who follow, look and unfollow all the while; what is not as it must be is noted."""
    enough = threading.Event()

    def act(number: int) -> None:
        with site.caller(f"client-{number}") as client:
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
                    found = site.send(client, method, path)
                except Exception as error:
                    site.failed.append(f"{method}: {type(error).__name__}: {error}")
                    return
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


def restart(site: Site, service: Service, name: str) -> None:
    """Ask a process to end, as a supervisor does, start it again, and return when it is at work."""
    service.stop(name)
    service.start(name)
    service.wait_ready()
    wait_until(lambda: service.base_url in site.ready)
    with psycopg.connect(service.environment["DATABASE_URL"], autocommit=True) as log:
        wait_until(lambda: _count(log, SHARING) == WORKERS)


def test_nobody_notices(site: Site) -> None:
    with site.caller("platform", "service") as platform:
        for user in ("star", *(f"client-{n}" for n in range(CLIENTS)), *(f"gone-{n}" for n in range(ERASED))):
            assert platform.put(f"{site.one.base_url}/v1/users/{user}", json={}).status_code == 201
        for fan in range(FANS):
            with site.caller(f"fan-{fan}") as client:
                for number in range(ERASED):
                    assert site.send(client, "POST", f"/v1/users/gone-{number}/follow").status_code == 201
        erased = iter(range(ERASED))
        with load(site):
            for service, name in (
                (site.one, "web"),
                (site.two, "web"),
                (site.one, "worker"),
                (site.two, "worker-2"),
            ):
                if (gone := next(erased, None)) is not None:
                    assert site.send(platform, "DELETE", f"/v1/users/gone-{gone}").status_code == 204
                restart(site, service, name)
                before = site.answered
                wait_until(lambda before=before: site.answered > before + 3 * CLIENTS or bool(site.failed))  # type: ignore[misc]
    print(f"{site.answered} requests answered, {site.goodbyes} of them with a goodbye")
    assert not site.failed, f"{len(site.failed)} of {site.answered + len(site.failed)}: {site.failed[:5]}"
    assert site.goodbyes  # whoever had a connection that was kept has been told
    for fan in range(FANS):  # the erasures' jobs may have been under way while the workers went; see below for sure
        with site.one.client(f"fan-{fan}") as client:
            wait_until(lambda client=client: client.get("/v1/users/me/following").json()["data"] == [])  # type: ignore[misc]


def test_told_to_stop_it_says_so_and_serves_on(site: Site) -> None:
    web, address = site.one.processes["web"], site.one.base_url
    with site.caller("ann") as kept, site.caller("bob") as new:
        assert "connection" not in kept.get(f"{address}/v1/users/me/following").headers
        web.terminate()
        wait_until(lambda: address not in site.ready)
        for client, path, status in (
            (kept, "/v1/users/me/following", 200),
            (new, "/v1/users/me/following", 200),
            (new, "/v1/users/nobody", 404),
            (new, "/kraken/channels/nobody/follows", 404),
            (new, "/health/live", 200),
        ):
            found = client.get(f"{address}{path}")
            assert (found.status_code, found.headers["connection"]) == (status, "close"), path
        unready = new.get(f"{address}/health/ready")
        assert unready.status_code == 503 and unready.json()["process"] == "stopping"
        os.killpg(web.pid, signal.SIGTERM)  # systemd tells all processes; who tells them twice changes nothing
        assert new.get(f"{address}/health/live").status_code == 200
    assert web.wait(STOP_LIMIT_S) == 0


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


def test_an_erasure_that_is_under_way_is_taken_up_again(site: Site, database_url: str) -> None:
    """Its job waits for the log when its worker is told to stop; another does it, once, and nothing of it is left."""
    with site.caller("platform", "service") as platform:
        assert platform.put(f"{site.one.base_url}/v1/users/gone", json={}).status_code == 201
    for fan in range(FANS):
        with site.caller(f"fan-{fan}") as client:
            assert site.send(client, "POST", "/v1/users/gone/follow").status_code == 201
    workers = {ONE: (site.one, "worker"), TWO: (site.two, "worker-2")}
    with psycopg.connect(database_url, autocommit=True) as log:
        with behind_the_erasure(site, database_url, log):
            wait_until(lambda: len(_erasing(log)) == 1)
            [at_it] = _erasing(log)
            service, name = workers.pop(at_it)
            worker = service.processes[name]
            worker.terminate()
            assert worker.wait(STOP_LIMIT_S) == 0
            [successor] = workers
            wait_until(lambda: _erasing(log) == [successor])
            assert _count(log, UNFOLLOWED) == 0
        wait_until(lambda: _count(log, "SELECT count(*) FROM erasures WHERE finished_at IS NOT NULL") == 1)
        for fan in range(FANS):
            with site.one.client(f"fan-{fan}") as client:
                wait_until(lambda client=client: client.get("/v1/users/me/following").json()["data"] == [])  # type: ignore[misc]
        assert _count(log, UNFOLLOWED) == FANS
    said = {ONE: site.one.folder / "worker.log", TWO: site.two.folder / "worker-2.log"}
    assert {name: file.read_text().count(ENDED) for name, file in said.items()} == {at_it: 0, successor: 1}


@contextmanager
def behind_the_erasure(site: Site, database_url: str, log: "psycopg.Connection[tuple[int]]") -> Iterator[None]:
    """``gone`` is erased, and no job of his comes to the log for the length of the block.

    Erasing takes the log's lock itself. So it waits for that, and we wait behind it: the lock goes from one to the next
    in the order in which they came, and the job, which begins when the erasure is done, comes behind us.
    """
    answers: list[int] = []

    def erase() -> None:
        with site.one.client("platform", "service") as client:
            answers.append(client.delete("/v1/users/gone").status_code)

    def lock() -> None:
        behind.execute("SELECT pg_advisory_lock(log_lock())")

    erasing, locking = threading.Thread(target=erase), threading.Thread(target=lock)
    with psycopg.connect(database_url, autocommit=True) as behind:
        log.execute("SELECT pg_advisory_lock(log_lock())")
        for waiting, thread in enumerate((erasing, locking), start=1):
            thread.start()
            wait_until(lambda waiting=waiting: _count(log, WAITING) == waiting)  # type: ignore[misc]
        log.execute("SELECT pg_advisory_unlock(log_lock())")
        erasing.join()
        locking.join()
        assert answers == [204]
        yield
        behind.execute("SELECT pg_advisory_unlock(log_lock())")


def _erasing(log: "psycopg.Connection[tuple[int]]") -> list[str]:
    return [str(name) for (name,) in log.execute(ERASING.encode()).fetchall()]


def _count(log: "psycopg.Connection[tuple[int]]", statement: str) -> int:
    [(found,)] = log.execute(statement.encode()).fetchall()
    return found
