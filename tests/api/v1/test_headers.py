"""The headers of /v1: counted requests and 429, log positions out and in, and the request's id."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.in_process import InProcess, in_process, refusal

LIMITS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


@pytest.fixture(scope="module")
async def service(module_settings: dict[str, str], keys: Path) -> AsyncIterator[InProcess]:
    """A service with the documented limit: 100 requests a minute for each user."""
    settings = {**module_settings, "FOLLOWS_RATE_LIMIT": "", "FOLLOWS_RATE_LIMIT_ADDRESS": ""}
    async with in_process(settings, keys) as running:
        yield running


# ---- the limit


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/users/me/following", 200),
        ("GET", "/v1/users/nobody", 404),
        ("POST", "/v1/users/me/follow", 400),
        ("PUT", "/v1/users/x", 403),
        ("GET", "/v1/nothing/here", 404),
        ("GET", "/v1", 404),
        ("PATCH", "/v1/users/x", 405),
        ("GET", "/v1/users/me/following?page=0", 400),
    ],
)
async def test_every_answer_has_rate_limit_headers(service: InProcess, method: str, path: str, status: int) -> None:
    ann = service.stranger()
    await ann.get("/v1/users/me/following")
    asked_at = time.time()
    answer = await ann.request(method, path)
    assert answer.status_code == status
    limit, remaining, reset = (int(answer.headers[name]) for name in LIMITS)
    assert (limit, remaining) == (100, 98)
    assert 0 <= reset - asked_at <= 61 and reset % 60 == 0


async def test_answers_without_token_have_rate_limit_headers_of_address(service: InProcess) -> None:
    before, after = [await service.anybody.get("/v1/users/x") for _ in range(2)]
    assert refusal(after)[:2] == (401, "unauthorized")
    assert after.headers["x-ratelimit-limit"] == "1200"
    assert int(after.headers["x-ratelimit-remaining"]) == int(before.headers["x-ratelimit-remaining"]) - 1


async def test_request_over_limit_returns_429_with_retry_after(service: InProcess) -> None:
    ann, bob = service.stranger(), service.stranger()
    answers = [await ann.get("/v1/users/me/following") for _ in range(101)]
    while answers[0].headers["x-ratelimit-reset"] != answers[-1].headers["x-ratelimit-reset"]:  # a minute ended between
        ann = service.stranger()  # who has asked nothing in the new one
        answers = [await ann.get("/v1/users/me/following") for _ in range(101)]
    assert [answer.status_code for answer in answers] == [200] * 100 + [429]
    last = answers[-1]
    assert refusal(last) == (429, "rate_limited", None)
    assert last.headers["x-ratelimit-remaining"] == "0"
    assert 1 <= int(last.headers["retry-after"]) <= 60
    assert refusal(await ann.post("/v1/users/me/follow"))[0] == 429
    assert refusal(await ann.get("/v1/nothing/here"))[0] == 404
    assert (await bob.get("/v1/users/me/following")).status_code == 200


async def test_rate_limited_command_is_not_carried_out(service: InProcess) -> None:
    ann, bob = service.stranger(), await service.person()
    answers = [await ann.get("/v1/users/me/following") for _ in range(101)]
    if answers[-1].status_code == 429:
        assert refusal(await ann.follow(bob))[0] == 429
        assert (await service.platform.get(f"/v1/users/{bob.id}")).json()["followers"] == 0


async def test_services_have_their_own_limit(service: InProcess) -> None:
    answer = await service.platform.get("/v1/users/me/following")
    assert answer.headers["x-ratelimit-limit"] == "60000"


async def test_health_and_documentation_are_not_counted(service: InProcess) -> None:
    for path in ("/health/live", "/health/ready", "/docs", "/nothing/here"):
        answer = await service.anybody.get(path)
        assert not any(name in answer.headers for name in LIMITS), path


async def test_limit_of_zero_switches_counting_off(own_settings: dict[str, str], keys: Path) -> None:
    settings = {**own_settings, "FOLLOWS_RATE_LIMIT": "0", "FOLLOWS_RATE_LIMIT_ADDRESS": ""}
    async with in_process(settings, keys, with_loop=False) as unlimited:
        answer = await unlimited.anybody.get("/v1/users/x")
        assert answer.status_code == 401 and not any(name in answer.headers for name in LIMITS)


# ---- positions


async def test_commands_return_increasing_positions(service: InProcess) -> None:
    ann, bob = await service.people(2)
    platform = service.platform
    answers = [
        await ann.follow(bob),
        await ann.unfollow(bob),
        await platform.put(f"/v1/users/{ann.id}", json={"bio": "x"}),
        await platform.put(f"/v1/users/{ann.id}/broadcast", json={}),
        await platform.delete(f"/v1/users/{ann.id}/broadcast"),
        await platform.delete(f"/v1/users/{ann.id}"),
    ]
    positions = [int(answer.headers["follow-position"]) for answer in answers]
    assert positions == sorted(set(positions))


async def test_queries_and_errors_return_no_position(service: InProcess) -> None:
    ann, bob = await service.people(2)
    for answer in (await ann.get("/v1/users/me/following"), await ann.unfollow(bob), await ann.get("/v1/x")):
        assert "follow-position" not in answer.headers


async def test_query_with_reached_position_returns_200(service: InProcess) -> None:
    ann, bob = await service.people(2)
    position = (await ann.follow(bob)).headers["follow-position"]
    for path in (f"{bob.id}/follow-status", f"{bob.id}/followers", "me/following", bob.id):
        answer = await ann.get(f"/v1/users/{path}", headers={"Follow-Position": position})
        assert answer.status_code == 200, path
    for none in ("0", "0000000000000000000"):
        assert (await ann.get("/v1/users/me/following", headers={"Follow-Position": none})).status_code == 200


async def test_query_with_position_beyond_the_log_says_how_far_the_answer_goes(service: InProcess) -> None:
    """The position may be of a log that was restored to an older state: it will never be reached."""
    ann, bob = await service.people(2)
    await ann.follow(bob)
    far = {"Follow-Position": "9223372036854775807"}
    for path in ("me/following", f"{bob.id}/follow-status", bob.id):
        answer = await ann.get(f"/v1/users/{path}", headers=far)
        assert answer.status_code == 200 and 0 < int(answer.headers["follow-position"]) < 10**9, path
    assert (await ann.get("/v1/users/nobody", headers=far)).status_code == 404


@pytest.mark.parametrize("bad", ["", "abc", "-1", "1.5", "+1", " 1 2", "0x1", "9223372036854775808", "9" * 30, b"\xb2"])
async def test_query_with_invalid_position_returns_400(service: InProcess, bad: str | bytes) -> None:
    raw = {b"Follow-Position": bad if isinstance(bad, bytes) else bad.encode()}
    answer = await service.stranger().get("/v1/users/me/following", headers=raw)
    assert refusal(answer)[:2] == (400, "validation_error")
    assert list(answer.json()["error"]["details"]) == ["Follow-Position"]
    assert refusal(await service.anybody.get("/v1/users/me/following", headers=raw))[0] == 401


# ---- the request's id


async def test_valid_request_id_is_returned(service: InProcess) -> None:
    ann = service.stranger()
    answer = await ann.get("/v1/users/me/following", headers={"X-Request-Id": "trace-1.a_b"})
    assert answer.headers["x-request-id"] == "trace-1.a_b"
    made = set()
    for odd in ("", "a b", "x" * 65, "a\tb"):
        answer = await ann.get("/v1/nothing", headers={"X-Request-Id": odd})
        made.add(answer.headers["x-request-id"])
        assert answer.headers["x-request-id"] != odd
    assert len(made) == 4
