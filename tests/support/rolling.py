"""A load of follows and reads on two web processes that are restarted, and its judge."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.support.breakable_servers import wait_until
from tests.support.servers import Service

CLIENTS = 6


@dataclass
class Site:
    """Two services on one database; ``ready`` are the addresses that requests are now sent to, in turn.

    ``failed`` has what the load was answered wrongly; ``closes`` counts answers that close the connection.
    """

    one: Service
    two: Service
    ready: tuple[str, ...]
    failed: list[str] = field(default_factory=list)
    answered: int = 0
    closes: int = 0
    turns: Iterator[int] = field(default_factory=itertools.count)

    def send(self, client: httpx.Client, method: str, path: str) -> httpx.Response:
        """Send a request once to the next ready process, over an open connection if there is one."""
        ready = self.ready
        found = client.request(method, f"{ready[next(self.turns) % len(ready)]}{path}")
        self.answered += 1
        self.closes += found.headers.get("connection") == "close"
        return found

    def caller(self, user: str, role: str = "user") -> httpx.Client:
        """Return an ordinary client, which keeps its connections and repeats no request."""
        headers = {"Authorization": f"Bearer {self.one.token(user, role)}"}
        return httpx.Client(headers=headers, trust_env=False, timeout=30)

    def go_on(self) -> None:
        """Return when each client of the load has sent some more requests, or when one has failed."""
        before = self.answered
        wait_until(lambda: self.answered > before + 3 * CLIENTS or bool(self.failed))

    def judge(self) -> None:
        """Fail if a request of the load has failed."""
        print(f"{self.answered} requests answered, {self.closes} of them closing the connection")
        assert not self.failed, f"{len(self.failed)} of {self.answered + len(self.failed)}: {self.failed[:5]}"


def register(site: Site, *others: str) -> None:
    """Register the users of the load, and others."""
    with site.one.client("platform", "service") as platform:
        for user in ("star", *(f"client-{number}" for number in range(CLIENTS)), *others):
            assert platform.put(f"/v1/users/{user}", json={}).status_code == 201


@contextmanager
def load(site: Site) -> Iterator[None]:
    """Run clients that follow, read and unfollow until the block ends; wrong answers go to ``site.failed``."""
    stop = threading.Event()

    def act(number: int) -> None:
        with site.caller(f"client-{number}") as client:
            for method, path, status in itertools.cycle(
                [
                    ("POST", "/v1/users/star/follow", 201),
                    ("GET", "/v1/users/star/follow-status", 200),
                    ("DELETE", "/v1/users/star/follow", 204),
                ]
            ):
                if stop.is_set() and method == "POST":
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
        stop.set()
        for thread in threads:
            thread.join()
