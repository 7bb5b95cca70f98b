"""A body that does not come is answered 400 in time, in both dialects; connections may be as many as there can be."""

import asyncio
import resource
from typing import Any

import pytest

from api import slow_clients
from commands.errors import Invalid
from tests.api.in_process import InProcess
from tests.api.kraken.people import SCOPES


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
    await service.app({**scope, "server": ("follows.test", 80), "asgi": {}}, receive, send)  # type: ignore
    assert told[0]["status"] == 400 and b"did not arrive" in told[1]["body"]


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
