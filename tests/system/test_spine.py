"""The spine through real processes: HTTP, log, arq worker, Redis, HTTP; and every process killed in between."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.breakable import BreakableServers, wait_until
from tests.servers import Service, running_service

_numbers = itertools.count(1)


class Caller:
    """One user at one service, over connections that all callers of the service share."""

    def __init__(self, service: Service, http: httpx.Client, user: str, role: str = "user") -> None:
        self.id = user
        self._http = http
        self._headers = {"Authorization": f"Bearer {service.token(user, role)}"}

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request."""
        return self._http.request(method, path, headers=self._headers, **arguments)

    def get(self, path: str) -> httpx.Response:
        """Read."""
        return self.call("GET", path)

    def follow(self, user: str) -> int:
        """Follow, and give the status."""
        return self.call("POST", f"/v1/users/{user}/follow").status_code

    def unfollow(self, user: str) -> int:
        """Unfollow, and give the status."""
        return self.call("DELETE", f"/v1/users/{user}/follow").status_code

    def follows(self, user: str) -> bool:
        """What the first answer says that is no 503."""
        path = f"/v1/users/{user}/follow-status"
        wait_until(lambda: answers_200(self, path))
        found: bool = self.get(path).json()["is_following"]
        return found


class Calls:
    """A service and the callers it has."""

    def __init__(self, service: Service) -> None:
        self.service = service
        limits = httpx.Limits(max_keepalive_connections=16)
        self.http = httpx.Client(base_url=service.base_url, trust_env=False, timeout=30, limits=limits)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def as_(self, user: str, role: str = "user") -> Caller:
        """Somebody."""
        return Caller(self.service, self.http, user, role)

    @property
    def onlooker(self) -> Caller:
        """Somebody who only reads, and so has no command of his own to wait for."""
        return self.as_("onlooker", "guest")

    @property
    def platform(self) -> Caller:
        """A service of the platform."""
        return self.as_("platform", "service")

    def known(self, count: int) -> list[Caller]:
        """So many users that the directory knows."""
        platform, people = self.platform, [self.as_(f"user-{next(_numbers)}") for _ in range(count)]
        for person in people:
            assert platform.call("PUT", f"/v1/users/{person.id}", json={}).status_code == 201
        return people


def follower_ids(client: Caller, id_: str) -> list[str]:
    """The whole list, page by page; fails where an answer is no 200."""
    found: list[str] = []
    for page in itertools.count(1):
        answer = client.get(f"/v1/users/{id_}/followers?per_page=100&page={page}")
        assert answer.status_code == 200, answer.text
        found += [row["id"] for row in answer.json()["data"]]
        if page >= answer.json()["pagination"]["total_pages"]:
            assert len(found) == answer.json()["pagination"]["total"]
            return found
    raise AssertionError


def answers_200(client: Caller, path: str) -> bool:
    """Whether a read is answered; the only other answer it may get is a 503 that says when to come back."""
    answer = client.get(path)
    assert answer.status_code == 200 or (answer.status_code == 503 and answer.headers["retry-after"]), answer.text
    return answer.status_code == 200


@pytest.fixture(scope="module")
def calls(system: Service) -> Iterator[Calls]:
    with closing(Calls(system)) as made:
        yield made


@pytest.fixture
def whole(calls: Calls, breakable: BreakableServers) -> Iterator[Calls]:
    """The running system, and whatever a test killed started again after it."""
    yield calls
    breakable.whole()
    for name in ("web", "worker"):
        if name not in calls.service.processes:
            calls.service.start(name)
    calls.service.wait_ready()


def test_from_http_to_http(whole: Calls) -> None:
    ann, bob = whole.known(2)
    made = ann.call("POST", f"/v1/users/{bob.id}/follow")
    assert made.status_code == 201
    row = bob.get("/v1/users/me/followers").json()["data"]
    assert [(entry["id"], entry["followed_at"]) for entry in row] == [(ann.id, made.json()["created_at"])]
    assert ann.unfollow(bob.id) == 204
    assert follower_ids(bob, bob.id) == []


def test_right_after_the_201_another_client_sees_it(whole: Calls) -> None:
    star, onlooker, fans = whole.known(1)[0], whole.onlooker, list[str]()
    for n in range(40):
        fan = whole.as_(f"fan-{n}")
        assert fan.follow(star.id) == 201
        fans.insert(0, fan.id)
        assert follower_ids(onlooker, star.id) == fans


def test_a_worker_that_was_killed_takes_nothing_with_it(whole: Calls) -> None:
    (ann, bob, cat), onlooker = whole.known(3), whole.onlooker
    assert ann.follow(bob.id) == 201
    whole.service.kill("worker")
    assert ann.follow(cat.id) == 201
    assert ann.unfollow(bob.id) == 204
    # Nobody projects: who acted is not told less than he knows, and others read what there is.
    assert ann.get(f"/v1/users/{cat.id}/follow-status").status_code == 503
    assert follower_ids(onlooker, bob.id) == [ann.id]
    whole.service.start("worker")
    assert ann.follows(cat.id) and not ann.follows(bob.id)
    assert follower_ids(onlooker, bob.id) == [] and follower_ids(onlooker, cat.id) == [ann.id]


def test_a_web_process_that_was_killed_had_written_all_it_answered(whole: Calls) -> None:
    """Promise P1: whatever got its 201 before the kill is there after it; nothing is there twice."""
    star, answered, enough = whole.known(1)[0], list[str](), threading.Event()

    def follow(fan: Caller) -> None:
        with suppress(httpx.TransportError):  # cut off: it may be written or not
            if fan.follow(star.id) == 201:
                answered.append(fan.id)
        if len(answered) >= 40:
            enough.set()

    fans = [whole.as_(f"burst-{n}") for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        for fan in fans:
            pool.submit(follow, fan)
        assert enough.wait(30)
        whole.service.kill("web")
    whole.service.start("web")
    whole.service.wait_ready()
    found = follower_ids(whole.onlooker, star.id)
    assert len(found) == len(set(found)) and set(answered) <= set(found)


def test_an_emptied_valkey_is_503_and_heals(whole: Calls, breakable: BreakableServers) -> None:
    (ann, bob), onlooker = whole.known(2), whole.onlooker
    ann.follow(bob.id)
    with Redis.from_url(breakable.valkey.url) as client:
        client.flushall()
    assert ann.follow(bob.id) == 409  # the log knows
    wait_until(lambda: answers_200(onlooker, f"/v1/users/{bob.id}/followers"))
    assert follower_ids(onlooker, bob.id) == [ann.id]
    assert onlooker.get(f"/v1/users/{bob.id}").json()["followers"] == 1


def test_postgres_restarts_under_the_service(whole: Calls, breakable: BreakableServers) -> None:
    ann, bob, cat = whole.known(3)
    assert ann.follow(bob.id) == 201
    with breakable.postgres.down():
        assert ann.follow(cat.id) == 503
        assert ann.get(f"/v1/users/{bob.id}/follow-status").json()["is_following"] is True
    wait_until(lambda: ann.follow(cat.id) in (201, 409))
    assert ann.follows(cat.id)


def test_valkey_restarts_under_the_service(whole: Calls, breakable: BreakableServers) -> None:
    ann, bob, cat = whole.known(3)
    assert ann.follow(bob.id) == 201
    with breakable.valkey.down():
        assert ann.get(f"/v1/users/{bob.id}/follow-status").status_code == 503
        assert ann.follow(cat.id) == 201
    assert ann.follows(cat.id)
    assert follower_ids(whole.onlooker, bob.id) == [ann.id]


def test_an_erasure_goes_on_after_a_kill(whole: Calls) -> None:
    star, *fans = whole.known(20)
    assert {fan.follow(star.id) for fan in fans} == {201}
    whole.service.kill("worker")
    assert whole.platform.call("DELETE", f"/v1/users/{star.id}").status_code == 204
    whole.service.start("worker")

    def is_gone() -> bool:
        path = "/v1/users/me/following"
        return answers_200(fans[0], path) and fans[0].get(path).json()["pagination"]["total"] == 0

    wait_until(is_gone)
    assert fans[0].get(f"/v1/users/{star.id}").status_code == 404


def test_two_of_each_and_one_worker_less(whole: Calls, breakable: BreakableServers) -> None:
    """What one web process answered, the other shows at once; the lanes of a killed worker go to those who live."""
    urls = (breakable.postgres.url, breakable.valkey.url, breakable.queue_url)
    with running_service(*urls, whole.service.folder) as service, closing(Calls(service)) as second:
        star = whole.known(1)[0]

        def follow_here_and_look_there(n: int) -> None:
            here, there = (whole, second) if n % 2 else (second, whole)
            name = f"pair-{n}"
            assert here.as_(name).follow(star.id) == 201
            assert there.as_(name).follows(star.id)

        for n in range(20):
            follow_here_and_look_there(n)
        whole.service.kill("worker")
        for n in range(20, 40):
            follow_here_and_look_there(n)
        assert sorted(follower_ids(second.onlooker, star.id)) == sorted(f"pair-{n}" for n in range(40))
