"""Hostile input to a real web process: every documented call tried, sockets abused, an ordinary client beside it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import httpx
import psutil

from tests.proof.document import prepare, try_document
from tests.proof.sockets import ATTACKS, BEGINNINGS, Address, most_connections, standing
from tests.proof.trial import Counts, Trial
from tests.servers import Service, fresh_database, running_service

TITLE: Final = "hostile input"
# The short form always makes the same requests, since a new one that schemathesis finds odd must not stop others' work.
SHORT_SEED: Final = 1
# The words of a path in an OpenAPI document that are calls; others are what its calls share.
METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
# A connection costs some 16 kB in the server; what is read of bodies and heads comes on top.
PER_CONNECTION_MAX: Final = 64 * 1024
GROWTH_MAX: Final = 96 * 1024 * 1024


def run(trial: Trial) -> Counts:
    """Attack and judge."""
    counts = Counts()
    with trial.servers() as servers, fresh_database(servers) as database:
        folder = trial.folder / "service"
        folder.mkdir()
        with running_service(database, servers.valkey_url(14), servers.valkey_url(15), folder) as service:
            prepare(service)
            _try_document(trial, service, counts)
            _use_sockets(trial, service, counts)
    return counts


def _try_document(trial: Trial, service: Service, counts: Counts) -> None:
    seed = trial.seed if trial.scale == "long" else SHORT_SEED
    tried = try_document(service, trial.folder, seed=seed, examples=trial.times(3, 300))
    counts.add("documented calls", tried.calls)
    documented = _documented(service)
    counts.expect(
        tried.calls == len(documented),
        f"of the {len(documented)} documented calls {tried.calls} were tried: {documented}",
    )
    counts.add("requests made up from the document", tried.requests)
    counts.expect(tried.good, tried.said)


def _documented(service: Service) -> list[str]:
    """Every call of the document, read without schemathesis: what it passes over would not be counted by itself."""
    answer = httpx.get(f"{service.base_url}/docs/openapi.json", trust_env=False, timeout=20).raise_for_status()
    calls = [f"{word.upper()} {path}" for path, item in answer.json()["paths"].items() for word in METHODS & set(item)]
    return sorted(calls)


def _use_sockets(trial: Trial, service: Service, counts: Counts) -> None:
    url = urlsplit(service.base_url)
    address = url.hostname or "", url.port or 0
    before, crowd = _memory(service), most_connections(trial.times(2_000, 10_000))
    with _ordinary_client(service, counts):
        _attack(address, trial, counts)
        for name, beginning in BEGINNINGS.items():
            with standing(address, beginning, crowd):
                counts.add(f"connections: {name}", crowd)
                counts.expect(_is_served(service), f"nobody is served beside {crowd} connections: {name}")
    grown = _memory(service) - before
    counts.expect(grown < GROWTH_MAX + crowd * PER_CONNECTION_MAX, f"the web process has grown by {grown} bytes")
    counts.expect(_is_served(service), "nobody is served after it")


def _attack(address: Address, trial: Trial, counts: Counts) -> None:
    for name, attack in ATTACKS.items():
        for number in range(trial.times(10, 500)):
            complaint = attack(address, trial.chance(name, number))
            counts.add(name)
            counts.expect(complaint is None, f"{complaint}; again: {trial.again('hostile')}")


@contextmanager
def _ordinary_client(service: Service, counts: Counts) -> Iterator[None]:
    """Somebody who follows, asks and unfollows all the while, and must always be answered rightly."""
    enough = threading.Event()

    def act() -> None:
        with service.client("bob") as bob:
            while not enough.is_set():
                made = bob.post("/v1/users/cem/follow").status_code
                seen = bob.get("/v1/users/cem/follow-status").json()
                ended = bob.delete("/v1/users/cem/follow").status_code
                counts.add("rounds of an ordinary client beside it")
                right = (made, seen.get("is_following"), ended) == (201, True, 204)
                counts.expect(right, f"an ordinary client was answered {made}, {seen}, {ended}")

    def told() -> None:
        try:
            act()
        except Exception as error:
            counts.expect(False, f"an ordinary client met {type(error).__name__}: {error}")

    with service.client("bob") as bob:
        bob.delete("/v1/users/cem/follow")  # as the document's requests may have left it
    acting = threading.Thread(target=told)
    acting.start()
    try:
        yield
    finally:
        enough.set()
        acting.join()


def _is_served(service: Service) -> bool:
    answer = httpx.get(f"{service.base_url}/health/live", trust_env=False, timeout=20)
    return answer.status_code == 200


def _memory(service: Service) -> int:
    """What the web process and its own children hold, in bytes."""
    web = psutil.Process(service.processes["web"].pid)
    return sum(process.memory_info().rss for process in (web, *web.children(recursive=True)))
