"""What every answer of both dialects says to caches, and to browsers about pages of other origins."""

from pathlib import Path

import pytest

from api.cors import CorsSettings
from commands.errors import SettingsError
from tests.support.in_process import InProcess, Person, in_process
from tests.support.kraken_users import SCOPES
from tests.support.v1_calls import CALLS

APP = "https://app.example.com"
PREFLIGHT = {"Origin": APP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
ALLOWED = (
    "Accept, Authorization, Client-ID, Content-Type, Follow-Position, Idempotency-Key, If-None-Match, "
    "X-Request-Id, X-Requested-With"
)
EXPOSED = (
    "ETag, Follow-Position, Link, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, "
    "X-Request-Id, x-api-version"
)


@pytest.fixture
async def callers(service: InProcess) -> list[Person]:
    """A user who follows another one, a service, a stranger, callers without a token and with a bad one."""
    ann, bob = service.stranger(scope=SCOPES), await service.person()
    assert (await ann.follow(bob)).status_code == 201
    nobody = Person(service.app, "", {"Authorization": "Bearer bad"})
    return [ann, service.platform, service.stranger(), service.anybody, nobody]


# ---- caches


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_no_cache_may_give_an_answer_of_v1_to_another_caller(
    service: InProcess, callers: list[Person], method: str, path: str
) -> None:
    for caller in callers:
        for address in (path, f"{path}?page=0", "/v1/nothing", f"/{path}"):
            answer = await caller.request(method, f"http://follows.test{address}")
            found = answer.headers.get_list("cache-control"), answer.headers.get_list("vary")
            assert found == (["private, no-cache"], ["Authorization"]), (answer.status_code, address)


async def test_error_that_nobody_has_foreseen_is_not_cached_either(
    service: InProcess, callers: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.services, "require", lambda _: 1 / 0)
    for path in ("/v1/users/x", "/v1/users/x/followers", "/kraken/users/x", "/kraken/channels/x/follows"):
        answer = await callers[0].get(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (500, "private, no-cache")


async def test_answer_is_not_stored_when_the_token_is_in_the_address(service: InProcess) -> None:
    token = service.token(service.stranger().id, scope=SCOPES)
    for path in (
        f"/kraken/user?oauth_token={token}",
        f"/kraken?oauth_token={token}&callback=f",
        f"/kraken/channels/nobody/follows?oauth_token={token}",
        f"/kraken/users/a/follows/channels/b?callback=f&_method=PUT&oauth_token={token}",
        "/kraken/nothing?oauth_token=bad",
        "/kraken/user?oauth_token=bad&limit=x",
    ):
        answer = await service.anybody.get(path)
        assert answer.headers.get_list("cache-control") == ["no-store"], path
        assert answer.headers.get_list("vary") == ["Authorization"]
    answer = await service.anybody.get("/kraken?oauth_token=")
    assert answer.headers.get_list("cache-control") == ["private, no-cache"]


# ---- pages of other origins


@pytest.mark.parametrize("path", ["/v1/users/x/follow", "/v1/users/me/following", "/v1/nothing", "/kraken/user"])
async def test_page_of_another_origin_may_use_both_dialects(service: InProcess, path: str) -> None:
    asked = await service.anybody.options(path, headers=PREFLIGHT)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == "*"
    assert asked.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE"
    assert asked.headers["access-control-allow-headers"] == ALLOWED
    assert asked.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-credentials" not in asked.headers and "x-request-id" in asked.headers
    for caller in (service.anybody, service.stranger(scope=SCOPES)):
        answer = await caller.get(path, headers={"Origin": APP})
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
        assert answer.headers.get_list("access-control-expose-headers") == [EXPOSED]


async def test_options_that_is_no_preflight_names_the_methods_of_v1(service: InProcess) -> None:
    answer = await service.anybody.options("/v1/users/x/follow", headers={"Origin": APP})
    assert (answer.status_code, answer.headers["allow"]) == (204, "DELETE, OPTIONS, POST")


async def test_refused_script_can_read_when_to_come_back(own_settings: dict[str, str], keys: Path) -> None:
    limits = {"FOLLOWS_RATE_LIMIT": "1", "FOLLOWS_RATE_LIMIT_KRAKEN": "1"}
    async with in_process({**own_settings, **limits}, keys) as service:
        for path in ("/v1/users/me/following", "/kraken"):
            caller = service.stranger()
            answers = [await caller.get(path, headers={"Origin": APP}) for _ in range(3)]
            assert answers[-1].status_code == 429 and "Retry-After" in EXPOSED
            assert answers[-1].headers["access-control-allow-origin"] == "*" and "retry-after" in answers[-1].headers


async def test_only_pages_of_the_given_origins_may(own_settings: dict[str, str], keys: Path) -> None:
    origins = {"FOLLOWS_CORS_ORIGINS": f"{APP}, http://localhost:3000"}
    async with in_process({**own_settings, **origins}, keys) as service:
        for path in ("/v1/users/x/followers", "/kraken/users/x", "/v1/users/x"):
            for origin, allowed in ((APP, [APP]), ("http://localhost:3000", ["http://localhost:3000"])):
                for answer in (
                    await service.anybody.get(path, headers={"Origin": origin}),
                    await service.anybody.options(path, headers={**PREFLIGHT, "Origin": origin}),
                ):
                    assert answer.headers.get_list("access-control-allow-origin") == allowed
                    assert answer.headers["vary"] == "Authorization, Origin"
            for origin in ("https://evil.example", f"{APP}.evil.example", "null", APP.upper(), ""):
                for headers in ({"Origin": origin}, {**PREFLIGHT, "Origin": origin}, {}):
                    answer = await service.anybody.options(path, headers=headers)
                    assert "access-control-allow-origin" not in answer.headers
                    assert answer.headers["vary"] == "Authorization, Origin"


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", None),
        ("*", None),
        ("none", frozenset()),
        ("HTTPS://App.example.com", frozenset({b"https://app.example.com"})),
        ("http://[::1]:8080,app://local", frozenset({b"http://[::1]:8080", b"app://local"})),
    ],
)
def test_origins_are_read_from_the_environment(text: str, origins: frozenset[bytes] | None) -> None:
    assert CorsSettings.from_env({"FOLLOWS_CORS_ORIGINS": text}) == CorsSettings(origins)


@pytest.mark.parametrize("text", ["app.example.com", "https://a.example/", "https://a.example, *", "null", "https://"])
def test_setting_that_is_no_list_of_origins_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="FOLLOWS_CORS_ORIGINS"):
        CorsSettings.from_env({"FOLLOWS_CORS_ORIGINS": text})
