"""A follow through real processes, from HTTP to the log, the worker, Redis and HTTP again, with each of them killed."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.servers import Service, running_service

_numbers = itertools.count(1)


class Caller:
    """One user of one service, over connections that all its callers share."""

    def __init__(self, service: Service, http: httpx.Client, user: str, role: str = "user") -> None:
        self.id = user
        self._http = http
        self._headers = {"Authorization": f"Bearer {service.token(user, role)}"}

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request."""
        return self._http.request(method, path, headers=self._headers, **arguments)

    def get(self, path: str) -> httpx.Response:
        """Send a GET."""
        return self.call("GET", path)

    def follow(self, user: str) -> int:
        """Follow a user; return the status."""
        return self.call("POST", f"/v1/users/{user}/follow").status_code

    def unfollow(self, user: str) -> int:
        """Unfollow a user; return the status."""
        return self.call("DELETE", f"/v1/users/{user}/follow").status_code

    def follows(self, user: str) -> bool:
        """Return what the first answer says that is not 503."""
        path = f"/v1/users/{user}/follow-status"
        wait_until(lambda: answers_200(self, path))
        found: bool = self.get(path).json()["is_following"]
        return found


class Calls:
    """A service and its callers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        limits = httpx.Limits(max_keepalive_connections=16)
        self.http = httpx.Client(base_url=service.base_url, trust_env=False, timeout=30, limits=limits)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def as_(self, user: str, role: str = "user") -> Caller:
        """Return a caller for a user or another role."""
        return Caller(self.service, self.http, user, role)

    @property
    def reader(self) -> Caller:
        """Return a caller that only reads, so that no read waits for a command of its own."""
        return self.as_("reader", "guest")

    @property
    def platform(self) -> Caller:
        """Return a caller with the role of a service."""
        return self.as_("platform", "service")

    def register(self, count: int) -> list[Caller]:
        """Register so many users and return their callers."""
        platform, people = self.platform, [self.as_(f"user-{next(_numbers)}") for _ in range(count)]
        for person in people:
            assert platform.call("PUT", f"/v1/users/{person.id}", json={}).status_code == 201
        return people


def follower_ids(client: Caller, id_: str) -> list[str]:
    """Return the whole list, read page by page; fails if an answer is not 200."""
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
    """Return True for 200 and False for 503 with Retry-After; fails on any other answer."""
    answer = client.get(path)
    assert answer.status_code == 200 or (answer.status_code == 503 and answer.headers["retry-after"]), answer.text
    return answer.status_code == 200


@pytest.fixture(scope="module")
def calls(system: Service) -> Iterator[Calls]:
    with closing(Calls(system)) as made:
        yield made


@pytest.fixture
def whole(calls: Calls, breakable: BreakableServers) -> Iterator[Calls]:
    """The running system; what a test kills is started again after it."""
    yield calls
    breakable.wait_ready()
    for name in ("web", "worker"):
        if name not in calls.service.processes:
            calls.service.start(name)
    calls.service.wait_ready()


def test_follow_and_unfollow_change_the_list(whole: Calls) -> None:
    ann, bob = whole.register(2)
    made = ann.call("POST", f"/v1/users/{bob.id}/follow")
    assert made.status_code == 201
    row = bob.get("/v1/users/me/followers").json()["data"]
    assert [(entry["id"], entry["followed_at"]) for entry in row] == [(ann.id, made.json()["created_at"])]
    assert ann.unfollow(bob.id) == 204
    assert follower_ids(bob, bob.id) == []


def test_follow_right_after_201_is_seen_by_another_caller(whole: Calls) -> None:
    star, reader, fans = whole.register(1)[0], whole.reader, list[str]()
    for n in range(40):
        fan = whole.as_(f"fan-{n}")
        assert fan.follow(star.id) == 201
        fans.insert(0, fan.id)
        assert follower_ids(reader, star.id) == fans


def test_killed_worker_loses_no_follow(whole: Calls) -> None:
    (ann, bob, cat), reader = whole.register(3), whole.reader
    assert ann.follow(bob.id) == 201
    whole.service.kill("worker")
    assert ann.follow(cat.id) == 201
    assert ann.unfollow(bob.id) == 204
    # Without a worker, ann's own reads are 503 and other callers read the older state.
    assert ann.get(f"/v1/users/{cat.id}/follow-status").status_code == 503
    assert follower_ids(reader, bob.id) == [ann.id]
    whole.service.start("worker")
    assert ann.follows(cat.id) and not ann.follows(bob.id)
    assert follower_ids(reader, bob.id) == [] and follower_ids(reader, cat.id) == [ann.id]


def test_killed_web_process_loses_no_follow_that_it_answered(whole: Calls) -> None:
    """Promise P1: each follow that was answered 201 before the kill is there after it, and none is there twice."""
    star, answered, enough_answers = whole.register(1)[0], list[str](), threading.Event()

    def follow(fan: Caller) -> None:
        with suppress(httpx.TransportError):  # without an answer it may be written or not
            if fan.follow(star.id) == 201:
                answered.append(fan.id)
        if len(answered) >= 40:
            enough_answers.set()

    fans = [whole.as_(f"burst-{n}") for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        for fan in fans:
            pool.submit(follow, fan)
        assert enough_answers.wait(30)
        whole.service.kill("web")
    whole.service.start("web")
    whole.service.wait_ready()
    found = follower_ids(whole.reader, star.id)
    assert len(found) == len(set(found)) and set(answered) <= set(found)


def test_emptied_valkey_is_503_until_rebuilt(whole: Calls, breakable: BreakableServers) -> None:
    (ann, bob), reader = whole.register(2), whole.reader
    ann.follow(bob.id)
    with Redis.from_url(breakable.valkey.url) as client:
        client.flushall()
    assert ann.follow(bob.id) == 409  # commands read the log
    wait_until(lambda: answers_200(reader, f"/v1/users/{bob.id}/followers"))
    assert follower_ids(reader, bob.id) == [ann.id]
    assert reader.get(f"/v1/users/{bob.id}").json()["followers"] == 1


def test_postgres_restart_needs_no_restart_of_the_service(whole: Calls, breakable: BreakableServers) -> None:
    ann, bob, cat = whole.register(3)
    assert ann.follow(bob.id) == 201
    with breakable.postgres.down():
        assert ann.follow(cat.id) == 503
        assert ann.get(f"/v1/users/{bob.id}/follow-status").json()["is_following"] is True
    wait_until(lambda: ann.follow(cat.id) in (201, 409))
    assert ann.follows(cat.id)


def test_valkey_restart_needs_no_restart_of_the_service(whole: Calls, breakable: BreakableServers) -> None:
    ann, bob, cat = whole.register(3)
    assert ann.follow(bob.id) == 201
    with breakable.valkey.down():
        assert ann.get(f"/v1/users/{bob.id}/follow-status").status_code == 503
        assert ann.follow(cat.id) == 201
    assert ann.follows(cat.id)
    assert follower_ids(whole.reader, bob.id) == [ann.id]


def test_erasure_continues_after_worker_was_killed(whole: Calls) -> None:
    star, *fans = whole.register(20)
    assert {fan.follow(star.id) for fan in fans} == {201}
    whole.service.kill("worker")
    assert whole.platform.call("DELETE", f"/v1/users/{star.id}").status_code == 204
    whole.service.start("worker")

    def is_gone() -> bool:
        path = "/v1/users/me/following"
        return answers_200(fans[0], path) and fans[0].get(path).json()["pagination"]["total"] == 0

    wait_until(is_gone)
    assert fans[0].get(f"/v1/users/{star.id}").status_code == 404


def test_follow_through_one_web_process_is_seen_through_the_other(whole: Calls, breakable: BreakableServers) -> None:
    """Also after one of two workers was killed and the other one has taken over its partitions."""
    urls = (breakable.postgres.url, breakable.valkey.url, breakable.queue_url)
    with running_service(*urls, whole.service.folder) as service, closing(Calls(service)) as second:
        star = whole.register(1)[0]

        def follow_here_and_read_there(n: int) -> None:
            here, there = (whole, second) if n % 2 else (second, whole)
            name = f"pair-{n}"
            assert here.as_(name).follow(star.id) == 201
            assert there.as_(name).follows(star.id)

        for n in range(20):
            follow_here_and_read_there(n)
        whole.service.kill("worker")
        for n in range(20, 40):
            follow_here_and_read_there(n)
        assert sorted(follower_ids(second.reader, star.id)) == sorted(f"pair-{n}" for n in range(40))
