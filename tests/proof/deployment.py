"""The deployment that the proof attacks: two web processes and two workers on breakable servers; its final check."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import httpx
import psycopg

from tests.proof.clients import Client, Record
from tests.proof.history_checker import check_history
from tests.proof.list_walks import lists
from tests.proof.parts import Counts, PartContext
from tests.support.breakable_servers import BreakableServers, breakable_servers, wait_until
from tests.support.servers import Service, running_service

# After the last fault, a worker that has just started may have to rebuild the views.
# A process takes a log that does not answer for away after at most 4 s (docs/operate.md), on a busy machine later.
LOG_AWAY_S: Final = 6.0
CATCH_UP_TIMEOUT_S: Final = 120.0
# The whole log is folded for that, and that of a long run has millions of events.
VERIFY_TIMEOUT_S: Final = 1_800.0
# While clients write, the views count as caught up when they are so few events behind.
LAG_UNDER_LOAD_MAX_EVENTS: Final = 500
# Every follow event: follower, followed, type.
EVENTS: Final = """SELECT f.id, t.id, e.type::text FROM events e JOIN users f ON f.number = e.subject
    JOIN users t ON t.number = e.object WHERE e.subject <> e.object ORDER BY e.position"""


PROCESSES: Final = ("web", "web-2", "worker", "worker-2")
JSON_LOGS: Final = {"FOLLOWS_LOG_FORMAT": "json"}
RECORD_FIELDS: Final = {"time", "level", "process", "host", "pid", "logger", "message"}


@dataclass(frozen=True)
class Deployment:
    """Two services, each a web process and a worker, on the same two servers."""

    servers: BreakableServers
    services: tuple[Service, Service]

    @property
    def ports(self) -> list[int]:
        """Return the ports of the web processes."""
        return [int(service.base_url.rpartition(":")[2]) for service in self.services]

    def clients(self, count: int, context: PartContext, counts: Counts) -> list[Client]:
        """Register ``count`` users and return a client for each."""
        users = [f"user-{number}" for number in range(count)]
        with self.services[0].client("platform", "service") as platform:
            for user in users:
                assert platform.put(f"/v1/users/{user}", json={}).status_code == 201
        tokens = [self.services[0].token(user, scopes=("user_follows_edit",)) for user in users]
        return [
            Client(user, token, self.ports, context.rng(user), counts, users)
            for user, token in zip(users, tokens, strict=True)
        ]

    def reads_go_on(self, seconds: float) -> int:
        """Read a list while Postgres is away, as a caller with a token that has written nothing.

        Until LOG_AWAY_S after the begin a read may be 503, while others could still be committing. For ``seconds`` more
        all are 200. Return the number of these.
        """
        answered, away_at = 0, monotonic() + LOG_AWAY_S
        with self.services[0].client("guest-1", "guest") as guest:
            while (now := monotonic()) < away_at + seconds:
                answer = guest.get("/v1/users/user-1/followers")
                is_early = now < away_at and answer.status_code == 503 and "retry-after" in answer.headers
                assert is_early or answer.status_code == 200, answer.text
                answered += now >= away_at
        return answered

    def wait_caught_up(self, behind: int = 0, limit_s: float = CATCH_UP_TIMEOUT_S) -> None:
        """Return when reads are answered and the views are at most ``behind`` events behind the log.

        A web process that reaches Redis again reads the log's end before it answers reads, so the first read is part of
        the recovery: the next fault may be one of Postgres, in which reads must go on.
        """
        self.servers.wait_ready()
        head = -1

        def is_reached() -> bool:
            nonlocal head
            head = max(head, *(_head(service) for service in self.services)) if head < 0 else head
            return head >= 0 and all(_is_caught_up(service, head, behind) for service in self.services)

        wait_until(is_reached, limit_s)
        with self.services[0].client("guest-1", "guest") as guest:
            urls = [f"{service.base_url}/v1/users/user-1/followers" for service in self.services]
            wait_until(lambda: all(guest.get(url).status_code != 503 for url in urls), CATCH_UP_TIMEOUT_S)

    def check(self, clients: Sequence[Client], counts: Counts) -> None:
        """Compare the log with the clients' records, then the views with the log: by `follows verify` and by lists."""
        events = check_records([client.record for client in clients], self.servers.postgres.url, counts)
        follows = {pair for pair, types in events.items() if types[-1] == "UserFollowed"}
        with self.services[0].client("guest-1", "guest") as guest:
            for client in clients:
                followers = {follower for follower, followed in follows if followed == client.user}
                following = {followed for follower, followed in follows if follower == client.user}
                for (path, rows, total), wanted in zip(
                    lists(guest, client.user), (followers, following) * 2, strict=True
                ):
                    counts.add("lists compared with the log")
                    right = sorted(rows) == sorted(wanted) and total == len(wanted)
                    counts.expect(right, f"{path} is not what the log says")
        counts.add("users whose views were compared with the log", len(clients))
        counts.expect(self.views_are_the_log(), "the views differ from the log")
        check_logs(self.services, counts)

    def views_are_the_log(self) -> bool:
        """Return True if `follows verify` finds no difference; print what it found otherwise."""
        verified = verify(self.services[0])
        if verified.returncode:
            print(verified.stdout)
        return verified.returncode == 0


def check_logs(services: Sequence[Service], counts: Counts) -> None:
    """Check that each line that the processes have logged is a record in JSON."""
    logs = [log for service in services for log in service.folder.glob("*.log")]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    counts.add("log lines", len(lines))
    for line in lines:
        counts.expect(_is_record(line), f"not a record in JSON: {line[:200]}")


def read_events(database_url: str) -> dict[tuple[str, str], list[str]]:
    """Return the types of all follow events by their pair of user ids, in the order of the log."""
    events: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    with psycopg.connect(database_url) as connection:
        for follower, followed, type_ in connection.execute(EVENTS):
            events[follower, followed].append(type_)
    return dict(events)


def check_records(records: Sequence[Record], database_url: str, counts: Counts) -> dict[tuple[str, str], list[str]]:
    """Compare a log with the records of all clients, and return its events."""
    events = read_events(database_url)
    counts.add("events in the log", sum(map(len, events.values())))
    unknown = set(events)
    for record in records:
        for target in {*record.attempts, *record.explained}:
            pair, attempts = (record.user, target), record.attempts[target]
            unknown.discard(pair)
            counts.add("commands", len(attempts))
            problem = check_history(attempts, events.get(pair, []), record.explained.get(target, 0))
            counts.expect(problem is None, f"{record.user} and {target}: {problem}")
    counts.expect(not unknown, f"the log has events of {list(unknown)[:3]} that no client sent")
    return events


@asynccontextmanager
async def clients_running(clients: Sequence[Client], *, every_s: float = 0.0) -> AsyncIterator[None]:
    """Let the clients act until the block ends: each every ``every_s`` seconds, or as fast as possible."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(client.act(stop, every_s=every_s)) for client in clients]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@contextmanager
def running_deployment(
    context: PartContext, own: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Deployment]:
    """Yield the deployment, started; ``own`` is as for ``running_services``."""
    with breakable_servers(context.folder / "servers") as servers:
        addresses = servers.postgres.url, servers.valkey.url, servers.queue_url
        with running_services(context.folder, addresses, own) as services:
            yield Deployment(servers, services)


@contextmanager
def running_services(
    folder: Path, addresses: tuple[str, str, str], own: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[tuple[Service, Service]]:
    """Yield two services; both web processes accept tokens signed with the first one's key.

    ``addresses`` are those of the log, the views and the queue; ``own`` has other settings of single processes by their
    name: "web" and "worker" of the first service, "web-2" and "worker-2" of the second.
    """
    first, second = folder / "one", folder / "two"
    first.mkdir()
    second.mkdir()
    with running_service(*addresses, first, environment=JSON_LOGS, own=own) as one:
        keys = {"FOLLOWS_JWKS": one.environment["FOLLOWS_JWKS"], **JSON_LOGS}
        with running_service(*addresses, second, processes=("web-2", "worker-2"), environment=keys, own=own) as two:
            yield one, two


def _is_record(line: str) -> bool:
    try:
        return RECORD_FIELDS.issubset(json.loads(line))
    except ValueError:
        return False


def _head(service: Service) -> int:
    """Return the log's end, -1 when the service's address does not lead to Postgres."""
    try:
        with psycopg.connect(service.environment["DATABASE_URL"]) as connection:
            [(head,)] = connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchall()
    except psycopg.OperationalError:
        return -1
    return int(head)


def _is_caught_up(service: Service, head: int, behind: int) -> bool:
    """Return whether the service's state has seen position ``head`` of the log, and the views are at most ``behind``
    events behind its end of that moment."""
    try:
        state = httpx.get(f"{service.base_url}/health/ready", trust_env=False, timeout=5).json()
    except (httpx.TransportError, ValueError):
        return False
    details = state["details"]
    lag = details["lag_events"]  # None until the web process has connected to Postgres again
    return bool(state["reads"] and lag is not None and lag <= behind and details["position"] >= head)


def verify(service: Service) -> subprocess.CompletedProcess[str]:
    """Run `follows verify` with the settings of a service."""
    command = [sys.executable, "-m", "cli", "verify"]
    return subprocess.run(
        command, env=dict(service.environment), capture_output=True, text=True, timeout=VERIFY_TIMEOUT_S
    )
