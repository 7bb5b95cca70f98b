"""HEAD is GET without its body on every route of both dialects, and changes nothing; checks of health take OPTIONS."""

from typing import Any

import httpx
import pytest

from tests.support.in_process import InProcess
from tests.support.kraken_users import SCOPES, new_user

# They differ from one answer to the next.
CHANGING = ("x-request-id", "date", "x-ratelimit-remaining", "x-ratelimit-reset")


def fixed(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in CHANGING}


async def test_head_has_status_and_headers_of_get_on_every_route(service: InProcess) -> None:
    ann, bob = await new_user(service), await new_user(service)
    await ann.follow(bob)
    await service.caught_up()
    names = {"user_id": bob.id, "user": ann.id, "target": bob.id, "channel": bob.id}
    document = (await service.anybody.get("/docs/openapi.json")).json()
    paths = [path.format(**names) for path, methods in document["paths"].items() if "get" in methods]
    assert len(paths) > 12
    caller = service.as_(ann.id, scope=SCOPES)
    for path in [*paths, "/docs", "/docs/openapi.json", "/v1/users/no-such", "/nothing", "/kraken/users/no-such"]:
        found, asked = await caller.get(path), await caller.head(path)
        assert (asked.status_code, asked.content) == (found.status_code, b""), path
        assert fixed(asked) == fixed(found), path
        assert int(asked.headers["content-length"]) == len(found.content), path


@pytest.mark.parametrize("path", ["/health/live", "/v1/users/no-such", "/kraken/users/no-such", "/docs", "/nothing"])
async def test_head_sends_no_body_to_the_server(service: InProcess, path: str) -> None:
    """The test's client, and most servers, would drop one."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"follows.test")]
    names = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
    address = {"path": path, "raw_path": path.encode(), "query_string": b"", "server": ("follows.test", 80)}
    scope: Any = {**names, **address, "method": "HEAD", "headers": headers, "client": ("127.0.0.1", 50_000)}
    await service.app(scope, receive, send)
    assert sent[0]["type"] == "http.response.start"
    assert {one["body"] for one in sent[1:]} == {b""}
    assert int(dict(sent[0]["headers"])[b"content-length"]) > 0


async def test_head_of_script_has_headers_of_script(service: InProcess) -> None:
    user = await new_user(service)
    path = f"/kraken/users/{user.id}?callback=foo"
    found, asked = await service.anybody.get(path), await service.anybody.head(path)
    assert fixed(asked) == fixed(found) and asked.content == b""


@pytest.mark.parametrize("method", ["PUT", "DELETE", "put"])
async def test_head_of_jsonp_command_is_405_and_changes_nothing(service: InProcess, method: str) -> None:
    ann, bob = await new_user(service), await new_user(service)
    token = service.token(ann.id, scope=SCOPES)
    path = f"/kraken/users/{ann.id}/follows/channels/{bob.id}"
    if method == "DELETE":
        await ann.follow(bob)
    before = (await service.anybody.get(path)).status_code
    asked = await service.anybody.head(path, params={"callback": "foo", "_method": method, "oauth_token": token})
    assert (asked.status_code, asked.headers["allow"], asked.content) == (405, "GET", b"")
    await service.caught_up()
    assert (await service.anybody.get(path)).status_code == before == (200 if method == "DELETE" else 404)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health/ready/", "//health/ready"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_health_has_status_of_get_for_each_method(
    service: InProcess, monkeypatch: pytest.MonkeyPatch, path: str, method: str
) -> None:
    address = f"http://follows.test{path}"  # whole, or the client would read doubled slashes as a host
    assert (await service.anybody.request(method, address)).status_code == 200
    monkeypatch.setattr(service.services.shutdown, "begun", True)
    expected = 503 if "ready" in path else 200
    assert (await service.anybody.request(method, address)).status_code == expected
