"""Every way to fail in the document's form, with CORS on it; every word of the domain has its meaning."""

from pathlib import Path

import pytest

from api.kraken.errors import KRAKEN_STATUS_OF, ErrorObject
from commands import errors
from projections.keys import POINTER
from tests.support.in_process import InProcess, in_process
from tests.support.kraken_users import SCOPES, new_user


def tree(kind: type[errors.FollowsError]) -> set[type[errors.FollowsError]]:
    """An error and all that are one."""
    return {kind}.union(*(tree(child) for child in kind.__subclasses__()))


def test_every_domain_error_has_status_and_text() -> None:
    words = {kind for kind in tree(errors.FollowsError) if kind.__module__ in ("commands.errors", "api.kraken.errors")}
    assert words == set(KRAKEN_STATUS_OF)


async def test_path_without_route_returns_404_in_dialect_form(service: InProcess) -> None:
    user = await new_user(service)
    for method, path, status, error in (
        ("GET", "/kraken/nowhere", 404, "Not Found"),
        ("GET", "/kraken/users", 404, "Not Found"),
        ("GET", "/kraken/users/a/b/c/d/e/f", 404, "Not Found"),
        ("GET", "/kraken/%ff", 404, "Not Found"),
        ("GET", "/kraken/users/%ff", 404, "Not Found"),
        ("GET", "/kraken/users/%00", 404, "Not Found"),
        ("GET", "/kraken/users/" + "a" * 3_000, 404, "Not Found"),
        ("GET", "/kraken/users/{message}", 404, "Not Found"),
        ("POST", f"/kraken/users/{user.id}", 405, "Method Not Allowed"),
        ("PUT", "/kraken/streams/followed", 405, "Method Not Allowed"),
        ("PATCH", f"/kraken/users/{user.id}/follows/channels/{user.id}", 405, "Method Not Allowed"),
    ):
        answer = await user.request(method, path)
        assert answer.status_code == status, (method, path)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["x-api-version"] == "3"
        assert (status == 405) == ("allow" in answer.headers)
        body = answer.json()
        assert list(body) == list(ErrorObject.__struct_fields__)
        assert (body["status"], body["error"]) == (status, error)


async def test_cors(service: InProcess) -> None:
    for path in ("/kraken", "/kraken/users/x/follows/channels/y", "/kraken/nowhere", "//kraken//user/"):
        answer = await service.anybody.options(f"http://follows.test{path}", headers={"Origin": "https://old.example"})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE"
        assert answer.headers["access-control-allow-headers"] == (
            "Accept, Authorization, Client-ID, Content-Type, Follow-Position, Idempotency-Key, If-None-Match, "
            "X-Request-Id, X-Requested-With"
        )
    for path in ("/kraken", "/kraken/user", "/kraken/users/nobody"):
        answer = await service.anybody.get(path, headers={"Origin": "https://old.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-expose-headers"] == (
            "ETag, Follow-Position, Link, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, "
            "X-Request-Id, x-api-version"
        )


async def test_kraken_query_with_invalid_position_returns_400(service: InProcess) -> None:
    answer = await service.anybody.get("/kraken/users/x", headers={"Follow-Position": "x"})
    assert (answer.status_code, answer.json()["error"]) == (400, "Bad Request")


async def test_kraken_query_with_position_beyond_the_log_says_how_far_the_answer_goes(service: InProcess) -> None:
    user = await new_user(service)
    for path in (f"/kraken/users/{user.id}", f"/kraken/channels/{user.id}/follows"):
        for caller in (user, service.anybody):
            answer = await caller.get(path, headers={"Follow-Position": str(10**12)})
            assert answer.status_code == 200 and 0 < int(answer.headers["follow-position"]) < 10**12, path


async def test_kraken_unexpected_error_returns_500_without_its_text(
    service: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.services.reader, "view", broken)
        answer = await service.anybody.get("/kraken/users/somebody")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "Internal Server Error",
        "status": 500,
        "message": "something went wrong on our side",
    }
    assert "builtins.RuntimeError" in caplog.text


async def test_kraken_request_over_limit_returns_429(own_settings: dict[str, str], keys: Path) -> None:
    async with in_process({**own_settings, "FOLLOWS_RATE_LIMIT_KRAKEN": "3"}, keys) as service:
        user = service.stranger(scope=SCOPES)
        answers = [await user.get("/kraken") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert answers[-1].json()["error"] == "Too Many Requests"
        assert int(answers[-1].headers["retry-after"]) > 0
        script = await user.get("/kraken?callback=foo")
        assert script.status_code == 200 and script.text.startswith('foo({"error":"Too Many Requests","status":429,')


async def test_lost_view_returns_503_and_never_an_empty_list(own_settings: dict[str, str], keys: Path) -> None:
    async with in_process(own_settings, keys) as service:
        user, channel = await new_user(service), await new_user(service)
        follow = f"/kraken/users/{user.id}/follows/channels/{channel.id}"
        assert (await user.put(follow)).status_code == 200
        paths = (
            f"/kraken/users/{user.id}",
            f"/kraken/channels/{channel.id}",
            f"/kraken/streams/{channel.id}",
            f"/kraken/channels/{channel.id}/follows",
            f"/kraken/users/{user.id}/follows/channels",
            f"/kraken/users/{user.id}/follows/channels?sortby=login",
            f"/kraken/users/{user.id}/follows/channels?sortby=last_broadcast",
            follow,
            "/kraken/streams/followed",
            "/kraken/user",
        )
        view = await service.services.reader.view()
        for path in paths:
            assert (await user.get(path)).status_code == 200, path
        partitions = {view.partition_of(await service.services.directory.number(one.id)) for one in (user, channel)}
    async with in_process(own_settings, keys, with_loop=False) as service:
        user, redis = service.as_(user.id, scope=SCOPES), service.services.redis
        for partition in partitions:
            await redis.call("DEL", view.checkpoint(partition))
        for path in paths[1:]:
            answer = await user.get(path)
            assert (answer.status_code, answer.json()["error"]) == (503, "Service Unavailable"), path
            assert int(answer.headers["retry-after"]) > 0
        await redis.call("DEL", POINTER)
        for path in paths:
            assert (await user.get(path)).status_code == 503
        assert (await service.anybody.get("/kraken")).status_code == 200
