"""Hostile input to a real web process: every documented call fuzzed, sockets abused, an ordinary client beside it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import httpx
import psutil

from tests.proof.deployment import JSON_LOGS, check_logs
from tests.proof.openapi_fuzz import prepare, try_document
from tests.proof.parts import Counts, PartContext
from tests.proof.socket_attacks import ATTACKS, PARTIAL_REQUESTS, most_connections, open_connections
from tests.support.raw_requests import Address
from tests.support.servers import Service, fresh_database, running_service

TITLE: Final = "hostile input"
# The short form always makes the same requests: a new finding of schemathesis must not fail an unrelated test run.
SHORT_SEED: Final = 1
# The keys of a path in an OpenAPI document that are calls; other keys are shared by its calls.
METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
# Of the ordinary client: users that no fuzzed request names, as such a request may erase its user.
ORDINARY: Final = "an-ordinary-client"
FOLLOWED: Final = "its-channel"
# On a busy machine the views may be later than a command waits by default; a 503 would then be no fault.
SETTINGS: Final = {**JSON_LOGS, "FOLLOWS_VISIBLE_WAIT_MS": "10000"}
# A connection costs the server some 16 kB, plus what it has read of a head or body.
PER_CONNECTION_MAX_BYTES: Final = 64 * 1024
GROWTH_MAX_BYTES: Final = 96 * 1024 * 1024


def run(context: PartContext) -> Counts:
    """Fuzz the documented calls, then attack over sockets."""
    counts = Counts()
    with context.servers() as servers, fresh_database(servers) as database:
        folder = context.folder / "service"
        folder.mkdir()
        addresses = database, servers.valkey_url(14), servers.valkey_url(15)
        with running_service(*addresses, folder, environment=SETTINGS) as service:
            prepare(service)
            _try_document(context, service, counts)
            _use_sockets(context, service, counts)
            check_logs([service], counts)
    return counts


def _try_document(context: PartContext, service: Service, counts: Counts) -> None:
    seed = context.seed if context.scale == "long" else SHORT_SEED
    fuzzed = try_document(service, context.folder, seed=seed, examples=context.by_scale(3, 300))
    counts.add("documented calls", fuzzed.calls)
    documented = _documented(service)
    counts.expect(
        fuzzed.calls == len(documented),
        f"of the {len(documented)} documented calls {fuzzed.calls} were tried: {documented}",
    )
    counts.add("requests made up from the document", fuzzed.requests)
    counts.expect(fuzzed.passed, fuzzed.output)


def _documented(service: Service) -> list[str]:
    """Return every call of the document, read without schemathesis, which would not count a call that it skips."""
    answer = httpx.get(f"{service.base_url}/docs/openapi.json", trust_env=False, timeout=20).raise_for_status()
    calls = [f"{word.upper()} {path}" for path, item in answer.json()["paths"].items() for word in METHODS & set(item)]
    return sorted(calls)


def _use_sockets(context: PartContext, service: Service, counts: Counts) -> None:
    url = urlsplit(service.base_url)
    address = url.hostname or "", url.port or 0
    before, connections = _memory(service), most_connections(context.by_scale(2_000, 10_000))
    with _ordinary_client(service, counts):
        _attack(address, context, counts)
        for name, beginning in PARTIAL_REQUESTS.items():
            with open_connections(address, beginning, connections):
                counts.add(f"connections: {name}", connections)
                counts.expect(_is_served(service), f"no request is served beside {connections} connections: {name}")
    growth, growth_max = _memory(service) - before, GROWTH_MAX_BYTES + connections * PER_CONNECTION_MAX_BYTES
    counts.expect(growth < growth_max, f"the web process has grown by {growth} bytes")
    counts.expect(_is_served(service), "no request is served after the attacks")


def _attack(address: Address, context: PartContext, counts: Counts) -> None:
    for name, attack in ATTACKS.items():
        for number in range(context.by_scale(10, 500)):
            complaint = attack(address, context.rng(name, number))
            counts.add(name)
            counts.expect(complaint is None, f"{complaint}")


@contextmanager
def _ordinary_client(service: Service, counts: Counts) -> Iterator[None]:
    """Follow, read and unfollow with one client for the length of the block; every answer must be right."""
    stop = threading.Event()

    def act() -> None:
        with service.client(ORDINARY) as client:
            while not stop.is_set():
                made = client.post(f"/v1/users/{FOLLOWED}/follow").status_code
                seen = client.get(f"/v1/users/{FOLLOWED}/follow-status").json()
                ended = client.delete(f"/v1/users/{FOLLOWED}/follow").status_code
                counts.add("rounds of an ordinary client beside it")
                right = (made, seen.get("is_following"), ended) == (201, True, 204)
                counts.expect(right, f"an ordinary client was answered {made}, {seen}, {ended}")

    def act_and_count() -> None:
        try:
            act()
        except Exception as error:
            counts.expect(False, f"an ordinary client got {type(error).__name__}: {error}")

    with service.client("platform", "service") as platform:
        platform.put(f"/v1/users/{FOLLOWED}", json={}).raise_for_status()
    client = threading.Thread(target=act_and_count)
    client.start()
    try:
        yield
    finally:
        stop.set()
        client.join()


def _is_served(service: Service) -> bool:
    answer = httpx.get(f"{service.base_url}/health/live", trust_env=False, timeout=20)
    return answer.status_code == 200


def _memory(service: Service) -> int:
    """Return the resident bytes of the web process and its children."""
    web = psutil.Process(service.processes["web"].pid)
    return sum(process.memory_info().rss for process in (web, *web.children(recursive=True)))
