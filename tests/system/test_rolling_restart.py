"""Restarts of all processes, one after the other, under load: no request fails, and no erasure is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from cli.dev.dev_key import ensure_dev_key
from tests.support.breakable_servers import wait_until
from tests.support.rolling import Site, load, register
from tests.support.servers import STOP_TIMEOUT_S, Service, running_service

ERASED = 4
FANS = 20
# How long a stopping web process still serves; the balancer checks it many times meanwhile, also on a busy machine.
GRACE_S = 2
CHECK_EVERY_S = 0.05
# Commands of one process that can be in Postgres at a time.
COMMITTERS = 2
WORKERS = 2
SHARING = "SELECT count(DISTINCT owner) FROM leases WHERE name LIKE 'group:%'"
UNFOLLOWED = "SELECT count(*) FROM events WHERE type = 'UserUnfollowed'"
# A worker logs this at the end of an erasure.
ENDED = "have ended"
ONE, TWO = "one", "two"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

# The services whose worker ends the follows of an erased user and waits for the log's lock.
ERASING = """SELECT a.application_name FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
    WHERE l.locktype = 'advisory' AND NOT l.granted AND a.query LIKE '%end_follows(%'"""


@contextmanager
def balancing(site: Site) -> Iterator[None]:
    """Check both web processes all the time, as a balancer does, and send only to those that are ready."""
    stop = threading.Event()
    services = (site.one, site.two)

    def check() -> None:
        with httpx.Client(headers={"Connection": "close"}, trust_env=False, timeout=5) as client:
            while not stop.wait(CHECK_EVERY_S):
                site.ready = tuple(service.base_url for service in services if _is_ready(client, service))

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        stop.set()
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
    # PGAPPNAME tells Postgres which service a connection belongs to.
    with (
        running_service(*urls, folders[0], environment={**given, "PGAPPNAME": ONE}) as one,
        running_service(
            *urls, folders[1], processes=("web", "worker-2"), environment={**given, "PGAPPNAME": TWO}
        ) as two,
    ):
        site = Site(one, two, (one.base_url, two.base_url))
        with balancing(site):
            yield site


def restart(site: Site, service: Service, name: str) -> None:
    """Terminate a process, as a supervisor does, start it again, and return when it works."""
    service.stop(name)
    service.start(name)
    service.wait_ready()
    wait_until(lambda: service.base_url in site.ready)
    with psycopg.connect(service.environment["DATABASE_URL"], autocommit=True) as log:
        wait_until(lambda: _count(log, SHARING) == WORKERS)


def test_restart_of_each_process_fails_no_request(site: Site) -> None:
    register(site, *(f"gone-{n}" for n in range(ERASED)))
    with site.caller("platform", "service") as platform:
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
                site.go_on()
    site.judge()
    assert site.closes  # clients with an open connection were told to close it
    for fan in range(FANS):  # workers may have stopped in the middle of an erasure; another test below makes sure of it
        with site.one.client(f"fan-{fan}") as client:
            wait_until(lambda client=client: client.get("/v1/users/me/following").json()["data"] == [])  # type: ignore[misc]


def test_stopping_web_process_serves_and_closes_connections(site: Site) -> None:
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
        assert unready.status_code == 503 and unready.json()["degraded"][0] == "the process was told to stop"
        os.killpg(web.pid, signal.SIGTERM)  # systemd signals all processes; a second signal changes nothing
        assert new.get(f"{address}/health/live").status_code == 200
    assert web.wait(STOP_TIMEOUT_S) == 0


def test_stopping_web_process_commits_and_answers_running_commands(site: Site, database_url: str) -> None:
    """Also commands that wait for the log's lock when the signal comes."""
    register(site)
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
    assert web.wait(STOP_TIMEOUT_S) == 0


def test_erasure_of_stopped_worker_is_done_once_by_another(site: Site, database_url: str) -> None:
    """It waits for the log's lock when its worker is stopped."""
    with site.caller("platform", "service") as platform:
        assert platform.put(f"{site.one.base_url}/v1/users/gone", json={}).status_code == 201
    for fan in range(FANS):
        with site.caller(f"fan-{fan}") as client:
            assert site.send(client, "POST", "/v1/users/gone/follow").status_code == 201
    workers = {ONE: (site.one, "worker"), TWO: (site.two, "worker-2")}
    with psycopg.connect(database_url, autocommit=True) as log:
        with behind_the_erasure(site, database_url, log):
            wait_until(lambda: len(_erasing(log)) == 1)
            [stopped] = _erasing(log)
            service, name = workers.pop(stopped)
            worker = service.processes[name]
            worker.terminate()
            assert worker.wait(STOP_TIMEOUT_S) == 0
            [successor] = workers
            wait_until(lambda: _erasing(log) == [successor])
            assert _count(log, UNFOLLOWED) == 0
        wait_until(lambda: _count(log, "SELECT count(*) FROM erasures WHERE finished_at IS NOT NULL") == 1)
        for fan in range(FANS):
            with site.one.client(f"fan-{fan}") as client:
                wait_until(lambda client=client: client.get("/v1/users/me/following").json()["data"] == [])  # type: ignore[misc]
        assert _count(log, UNFOLLOWED) == FANS
    logs = {ONE: site.one.folder / "worker.log", TWO: site.two.folder / "worker-2.log"}
    assert {name: file.read_text().count(ENDED) for name, file in logs.items()} == {stopped: 0, successor: 1}


@contextmanager
def behind_the_erasure(site: Site, database_url: str, log: "psycopg.Connection[tuple[int]]") -> Iterator[None]:
    """Erase ``gone``, and keep the workers from writing to the log for the length of the block.

    Each step waits for the log's lock behind the one before: ``log`` has it, then comes the erasure, then ``behind``.
    When ``log`` releases it, the erasure runs, and the ends of its follows wait until ``behind`` releases the lock.
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
