"""Slow clients and many connections.

A request whose body does not arrive gets 400 in time, in both dialects. A real web process closes connections with an
endless head or without any bytes while it serves others, and takes as many connections as the hard limit allows.
"""

import asyncio
import resource
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from api.app import create_app
from api.timeouts import with_body_timeout
from commands.errors import Invalid
from commands.log import event_log as log
from tests.support.in_process import InProcess
from tests.support.kraken_users import SCOPES
from tests.support.servers import Service, running_service

# The server's limit for a head, made short for the test, and how long it may take beyond that on a busy machine.
HEAD_LIMIT_S: Final = 2
PATIENCE_S: Final = 10.0
CLIENT_TIMEOUT_S: Final = 10.0
DRIPS: Final = 200
# More than a web process needs for itself.
SOFT_FILE_LIMIT: Final = 300
LIVE: Final = b"GET /health/live HTTP/1.1\r\nHost: follows.test\r\n"
# How far each goes that then says nothing more; the last has had an answer.
SILENT: Final = {"nothing": b"", "half a line": b"GET /hea", "half a head": LIVE, "idle": LIVE + b"\r\n"}


@pytest.mark.parametrize("path", ["/v1/users/ann", "/v1/users/ann/broadcast", "/kraken/users/ann/follows/channels/bob"])
async def test_body_that_stops_half_way_returns_400_in_time(service: InProcess, path: str) -> None:
    app = create_app(service.services, body_timeout_s=0.05)
    token = service.token("platform", role="service", scope=SCOPES)
    sent = [{"type": "http.request", "body": b"{", "more_body": True}]
    told = list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else await asyncio.Future()

    async def send(message: Any) -> None:
        told.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-length", b"9"), (b"host", b"follows.test")]
    scope = {"type": "http", "method": "PUT", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": headers, "client": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1", "root_path": ""}
    before = await log.head(service.services.engine)
    await app({**scope, "server": ("follows.test", 80), "asgi": {}}, receive, send)  # type: ignore
    assert told[0]["status"] == 400 and b"did not arrive" in told[1]["body"]
    assert (await log.head(service.services.engine)).position == before.position


async def test_body_timeout_is_for_the_whole_body() -> None:

    async def drip() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    receive = with_body_timeout(drip, 0.05)  # type: ignore[arg-type]

    async def read_all() -> None:
        while True:
            await receive()

    with pytest.raises(Invalid, match="did not arrive"):
        await read_all()


# ---- on a real web process


@contextmanager
def soft_file_limit(limit: int) -> Iterator[None]:
    """Let processes that are started inside begin with at most ``limit`` open files, which they may raise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_above_the_soft_file_limit_leave_room_for_clients(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """The server raises its soft limit on open files to the hard one when it starts, as docs/reliability.md says."""
    with ExitStack() as stack:
        with soft_file_limit(SOFT_FILE_LIMIT):
            running = running_service(database_url, redis_url, queue_url, service_folder)
            service = stack.enter_context(running)
        stack.enter_context(connections(service, [LIVE] * (SOFT_FILE_LIMIT + 100)))
        with service.client("ann") as other:
            for _ in range(3):
                # Well before the server's own limit of 30 s for a head ends the idle connections.
                answer = other.get("/v1/users/me/following", headers={"Connection": "close"}, timeout=CLIENT_TIMEOUT_S)
                assert answer.status_code == 200


@contextmanager
def connections(service: Service, beginnings: Sequence[bytes]) -> Iterator[list[socket.socket]]:
    """One connection for each of ``beginnings``, which has said that."""
    url = urlsplit(service.base_url)
    with ExitStack() as stack:
        opened = []
        for beginning in beginnings:
            opened.append(stack.enter_context(socket.create_connection((url.hostname, url.port), PATIENCE_S)))
            opened[-1].sendall(beginning)
            opened[-1].setblocking(False)
        yield opened


def is_open(connection: socket.socket, *, drips: bool) -> bool:
    """Return whether the connection is still open, whatever was answered; if it ``drips``, send a byte first."""
    try:
        if drips:
            connection.send(b"a")
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


def test_heads_that_do_not_end_are_closed_in_time_beside_ordinary_clients(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """Bytes sent one by one do not restart the limit, and an ordinary client is answered after each round of bytes."""
    settings = {"FOLLOWS_HEAD_TIMEOUT_S": str(HEAD_LIMIT_S)}
    with (
        running_service(database_url, redis_url, queue_url, service_folder, environment=settings) as service,
        connections(service, [LIVE + b"X-Slow: "] * DRIPS) as dripping,
        connections(service, list(SILENT.values())) as silent,
        service.client("ann") as other,
    ):
        began, rounds = time.monotonic(), 0
        while dripping or silent:
            dripping = [connection for connection in dripping if is_open(connection, drips=True)]
            silent = [connection for connection in silent if is_open(connection, drips=False)]
            assert other.get("/v1/users/me/following").status_code == 200
            rounds += len(dripping) == DRIPS
            late = time.monotonic() - began > HEAD_LIMIT_S + PATIENCE_S
            assert not late, f"{len(dripping)} of {DRIPS} that drip and {len(silent)} silent ones still stand"
        assert rounds > 1, "they were closed at once, not when the limit was over"
