"""Own writes through two web and two worker processes: paused, restarted, stopped and continued, one worker behind."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest

from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.servers import Service, running_service

PATH = "/v1/users/bob/follow"


@pytest.fixture(scope="module")
def services(
    breakable: BreakableServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Two services on the same servers, each with a web and a worker process; ann and bob are registered."""
    urls = breakable.postgres.url, breakable.valkey.url, breakable.queue_url
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    with running_service(*urls, one) as first:
        copied = {"FOLLOWS_JWKS": first.environment["FOLLOWS_JWKS"]}
        with running_service(*urls, two, environment=copied) as second:
            yield first, Service(second.base_url, first.folder, second.environment, second.processes)


def caller(service: Service, at: Service, user: str, role: str = "user") -> httpx.Client:
    """Return a client of ``user`` at the web process of ``at``; ``service`` has the key."""
    headers = {"Authorization": f"Bearer {service.token(user, role)}"}
    return httpx.Client(base_url=at.base_url, headers=headers, trust_env=False, timeout=30)


def follows(service: Service, *arguments: str) -> None:
    """Run a command of the command line."""
    subprocess.run([sys.executable, "-m", "cli", *arguments], env=dict(service.environment), check=True)


@contextmanager
def paused(service: Service) -> Iterator[None]:
    """Pause the projection for the length of the block, which begins when the workers have noticed."""
    follows(service, "pause", "--why", "a test")
    try:
        with caller(service, service, "probe") as probe:
            methods = itertools.cycle(("POST", "DELETE"))

            def is_late() -> bool:
                probe.request(next(methods), PATH)
                return probe.get(f"{PATH}-status").status_code == 503

            wait_until(is_late)
        yield
    finally:
        follows(service, "resume")


@contextmanager
def stopped(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a process and its children for the length of the block; they notice nothing of it."""
    os.killpg(child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(child.pid, signal.SIGCONT)


def answered(client: httpx.Client, path: str) -> httpx.Response:
    """Return the first answer that is not 503."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        answers.append(client.get(path))
        return answers[-1].status_code != 503

    wait_until(is_answered)
    return answers[-1]


def is_up(service: Service) -> bool:
    """Return whether the web process answers."""
    try:
        return httpx.get(f"{service.base_url}/health/live", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_own_follow_during_a_pause_is_503_in_every_process_until_it_is_shown(
    services: tuple[Service, Service],
) -> None:
    """Also in one that was restarted, and in one that was stopped while the follow was committed."""
    one, two = services
    with caller(one, one, "platform", "service") as platform:
        for name in ("ann", "bob", "cem", "probe"):
            platform.put(f"/v1/users/{name}", json={})
    with caller(one, one, "ann") as here, caller(one, two, "ann") as there, caller(one, two, "cem") as other:
        for client in (here, there):
            assert answered(client, f"{PATH}-status").json()["is_following"] is False
        with paused(one):
            with stopped(two.processes["web"]):
                assert here.post(PATH).status_code == 201
            for client in (there, here):
                assert client.get(f"{PATH}-status").status_code == 503
            assert other.get(f"{PATH}-status").json()["is_following"] is False, "cem has written nothing"
            two.stop("web")
            two.start("web")
            wait_until(lambda: is_up(two))
            assert there.get(f"{PATH}-status").status_code == 503
            assert other.get(f"{PATH}-status").json()["is_following"] is False
        for client in (here, there):
            assert answered(client, f"{PATH}-status").json()["is_following"] is True


def test_login_that_changed_hands_while_a_worker_is_stopped_shows_its_new_owner(
    services: tuple[Service, Service],
) -> None:
    """The login may be in a partition that is behind. Until another worker takes it over the user is not shown."""
    one, two = services
    with caller(one, one, "platform", "service") as platform, caller(one, two, "platform", "service") as elsewhere:
        for name in ("old", "new"):
            platform.put(f"/v1/users/{name}", json={})
        for number, worker in enumerate((one, two)):
            wait_until(lambda: sharing(one))
            nick = f"nick{number}"
            assert platform.put("/v1/users/old", json={"username": nick}).status_code == 200
            for client in (platform, elsewhere):
                assert answered(client, f"/kraken/users/{nick}").json()["display_name"] == "old"
            with stopped(worker.processes["worker"]):
                assert platform.put("/v1/users/old", json={"username": f"free{number}"}).status_code == 200
                assert platform.put("/v1/users/new", json={"username": nick}).status_code == 200
                for client in (platform, elsewhere):
                    for path, name in ((f"/kraken/users/{nick}", "new"), (f"/kraken/channels/free{number}", "old")):
                        assert answered(client, path).json()["display_name"] == name


def sharing(service: Service) -> bool:
    """Return whether two workers share the partitions."""
    with psycopg.connect(service.environment["DATABASE_URL"], autocommit=True) as connection:
        found = connection.execute("SELECT count(DISTINCT owner) FROM leases WHERE name LIKE 'group:%'").fetchone()
    return found == (2,)
