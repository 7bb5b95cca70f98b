"""A body that does not come is answered 400 in time, in both dialects; connections may be as many as there can be.

A head that does not end, and a connection that says nothing, are closed by a real web process, beside which others are
served.
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
from granian.http import HTTP1Settings

from api import slow_clients
from cli.procfile import commands
from commands import log
from commands.errors import Invalid
from tests.api.in_process import InProcess
from tests.api.kraken.people import SCOPES
from tests.servers import Service, running_service

# The server's limit for a head, made short for the test, and how long it may take beyond that on a busy machine.
HEAD_LIMIT_S: Final = 2.0
PATIENCE_S: Final = 10.0
DRIPS: Final = 200
LIVE: Final = b"GET /health/live HTTP/1.1\r\nHost: follows.test\r\n"
# How far each goes that then says nothing more; the last has had an answer.
SILENT: Final = {"nothing": b"", "half a line": b"GET /hea", "half a head": LIVE, "idle": LIVE + b"\r\n"}


@pytest.mark.parametrize("path", ["/v1/users/ann", "/v1/users/ann/broadcast", "/kraken/users/ann/follows/channels/bob"])
async def test_a_body_that_stops_half_way(service: InProcess, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "BODY_LIMIT_S", 0.05)
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
    before = await log.head(service.parts.engine)
    await service.app({**scope, "server": ("follows.test", 80), "asgi": {}}, receive, send)  # type: ignore
    assert told[0]["status"] == 400 and b"did not arrive" in told[1]["body"]
    assert (await log.head(service.parts.engine)).position == before.position


async def test_the_limit_is_for_the_whole_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "BODY_LIMIT_S", 0.05)

    async def drip() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    receive = slow_clients.timely(drip)  # type: ignore[arg-type]

    async def read_all() -> None:
        while True:
            await receive()

    with pytest.raises(Invalid, match="did not arrive"):
        await read_all()


def test_as_many_files_as_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
        slow_clients.allow_many_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ---- heads that do not end, on a real web process


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


def stands(connection: socket.socket, *, drips: bool) -> bool:
    """Whether the server has not ended the connection, whatever it said; one that ``drips`` sends a byte first."""
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


def test_heads_that_do_not_end(database_url: str, redis_url: str, queue_url: str, service_folder: Path) -> None:
    """A byte at a time does not begin the limit anew, and an ordinary client is answered after each round of bytes."""
    settings = {"GRANIAN_HTTP1_HEADER_READ_TIMEOUT": f"{HEAD_LIMIT_S * 1000:.0f}"}
    with (
        running_service(database_url, redis_url, queue_url, service_folder, environment=settings) as service,
        connections(service, [LIVE + b"X-Slow: "] * DRIPS) as dripping,
        connections(service, list(SILENT.values())) as silent,
        service.client("ann") as other,
    ):
        began, rounds = time.monotonic(), 0
        while dripping or silent:
            dripping = [connection for connection in dripping if stands(connection, drips=True)]
            silent = [connection for connection in silent if stands(connection, drips=False)]
            assert other.get("/v1/users/me/following").status_code == 200
            rounds += len(dripping) == DRIPS
            late = time.monotonic() - began > HEAD_LIMIT_S + PATIENCE_S
            assert not late, f"{len(dripping)} of {DRIPS} that drip and {len(silent)} silent ones still stand"
        assert rounds > 1, "they were closed at once, not when the limit was over"


def test_the_limit_for_a_head_is_the_server_s_own() -> None:
    """What docs/reliability.md says: 30 s, which nothing here changes."""
    assert HTTP1Settings().header_read_timeout == 30_000
    assert "header-read-timeout" not in commands()["web"]
