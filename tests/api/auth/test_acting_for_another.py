"""No caller acts for another user in any call of the route table, however the token is sent; no invalid token acts.

Each command is sent where it would act if its token were accepted; a control sends the same with valid tokens. Both are
checked: the status, which must name the token as the reason, and the log, where nothing of the victim may change.
"""

import hashlib
import hmac
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from litestar.routes import HTTPRoute
from sqlalchemy import text

from api.app import BODY_MAX
from api.auth.tokens import TOKEN_LENGTH_MAX
from api.kraken.routes import kraken_router
from api.v1.routes import v1_router
from cli.dev.dev_key import DEV_ISSUER, KEY_FILE
from commands.log import event_log as log
from tests.support.in_process import InProcess, Person, in_process
from tests.support.kraken_users import SCOPES, new_user
from tests.support.raw_requests import exchange
from tests.support.servers import Service, running_service
from tests.support.signing import private_key, segment

Request = dict[str, Any]
AUDIENCE: Final = "https://follows.example"
BROADCAST: Final = {"game": "Chess", "title": "Endgames", "viewers": 7}
# The bodies that the directory's calls need to act.
BODIES: Final[dict[tuple[str, str], Request]] = {
    ("PUT", "/v1/users/{user_id}"): {"bio": "changed by a stranger"},
    ("PUT", "/v1/users/{user_id}/broadcast"): BROADCAST,
}


class InProcessWithAudience(InProcess):
    """The application, which accepts only tokens for its audience."""

    def token(self, user: str, /, role: str = "user", **claims: object) -> str:
        return super().token(user, role, **{"aud": AUDIENCE, **claims})


@pytest.fixture(scope="module")
async def service(module_settings: dict[str, str], keys: Path) -> AsyncIterator[InProcess]:
    """The application with an audience: without one, every audience is accepted."""
    async with in_process({**module_settings, "FOLLOWS_AUDIENCE": AUDIENCE}, keys) as running:
        yield InProcessWithAudience(running.app, running.services, running.keys)


def commands() -> list[tuple[str, str]]:
    """Return (method, path) of every command in the routers."""
    found = []
    for router in (v1_router, kraken_router):
        for route in router.routes:
            if isinstance(route, HTTPRoute):
                found += [(method, route.path_format) for method in route.methods - {"GET", "OPTIONS"}]
    return sorted(found)


def ways_to_send(method: str, path: str, address: str, token: str) -> Iterator[tuple[str, Request]]:
    """Yield a name and the request for every way to send ``token`` with a command of the route ``path``."""
    body = BODIES.get((method, path))
    plain = {"method": method, "url": address}
    base = {**plain, "json": body} if body else plain
    yield "Bearer", {**base, "headers": {"Authorization": f"Bearer {token}"}}
    yield "bearer in lower case", {**base, "headers": {"authorization": f"bearer {token}"}}
    yield "cookie", {**base, "headers": {"Cookie": f"oauth_token={token}; token={token}"}}
    yield "query", {**base, "params": {"oauth_token": token}}
    yield "form", {**plain, "data": {"oauth_token": token}}
    yield "JSON", {**plain, "json": {**(body or {}), "oauth_token": token}}
    if path.startswith("/kraken"):
        yield "OAuth", {**base, "headers": {"Authorization": f"OAuth {token}"}}
        asked = {"callback": "f", "_method": method, "oauth_token": token}
        yield "JSON-P", {"method": "GET", "url": address, "params": asked}
        by_header = {"Authorization": f"OAuth {token}"}
        yield (
            "JSON-P by header",
            {"method": "GET", "url": address, "params": asked | {"oauth_token": ""}, "headers": by_header},
        )


def is_token_read(way: str, method: str, path: str) -> bool:
    """Return True if the dialect reads a token that is sent this way; else the request has no token."""
    if path.startswith("/v1"):
        return way.lower().startswith("bearer")
    return way not in ("cookie", "JSON-P by header") and (method == "PUT" or way not in ("form", "JSON"))


def paths_of(path: str, victim: str, other: str) -> list[str]:
    """Return the paths with the victim in all or some places for a user, and the other user in the rest."""
    names = [name.strip("{}").partition(":")[0] for name in path.split("/") if name.startswith("{")]
    assert set(names) <= {"user_id", "user", "target"}, f"{path} has a new parameter: add it here"
    paths = []
    for people in itertools.product((victim, other), repeat=len(names)):
        given = dict(zip(names, people, strict=True))
        paths.append("/".join(given.get(part.strip("{}").partition(":")[0], part) for part in path.split("/")))
    return paths


async def follow_each_other(service: InProcess, one: Person, other: Person) -> None:
    """Make what a DELETE would end: two live users who follow each other."""
    for person, followed in ((one, other), (other, one)):
        assert (await person.follow(followed)).status_code == 201
        live = await service.platform.put(f"/v1/users/{person.id}/broadcast", json=BROADCAST)
        assert live.status_code == 204, live.text


async def events_of(service: InProcess, *people: Person) -> int:
    """Return the number of events with these users as subjects."""
    numbers = [await service.services.directory.number(person.id) for person in people]
    async with service.services.engine.connect() as connection:
        statement = text("SELECT count(*) FROM events WHERE subject = ANY(:numbers)")
        found: int = (await connection.execute(statement, {"numbers": numbers})).scalar_one()
        return found


async def log_end(service: InProcess) -> int:
    """Return the log's last position."""
    return (await log.head(service.services.engine)).position


def status_of(answer: httpx.Response, way: str) -> int:
    """Return an answer's status; for JSON-P, the one inside the script."""
    if not way.startswith("JSON-P"):
        return answer.status_code
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/javascript", answer.text
    assert answer.text.startswith("f(") and answer.text.endswith(");"), answer.text
    body: dict[str, Any] = json.loads(answer.text[2:-2] or "{}")
    return int(body.get("status", 200)) if "error" in body else 200


def test_route_table_has_all_commands() -> None:
    """Control: the other tests would pass with an empty table."""
    assert len(commands()) == 8


def statuses_for_a_foreign_token(method: str, path: str, way: str, role: str) -> set[int]:
    """Return the allowed statuses for a command on other users with the attacker's own, valid token.

    A follow of /v1 names only the followed user, so the attacker just follows them: the second follow is a conflict,
    and an unfollow finds nothing to end.
    """
    if not is_token_read(way, method, path):
        return {401}
    if path.startswith("/v1") and path.endswith("/follow") and role == "user":
        return {201, 409} if method == "POST" else {404}
    return {403}


@pytest.mark.parametrize(("method", "path"), commands())
@pytest.mark.parametrize("role", ["user", "guest"])
async def test_command_with_an_attackers_token_changes_nothing_of_the_victim(
    service: InProcess, method: str, path: str, role: str
) -> None:
    victim, attacker, third = [await new_user(service) for _ in range(3)]
    if method == "DELETE":
        await follow_each_other(service, victim, third)
    token = service.token(attacker.id, role=role, scope=SCOPES)
    before = await events_of(service, victim, third)
    for address in paths_of(path, victim.id, third.id):
        for way, request in ways_to_send(method, path, address, token):
            answer = await service.anybody.request(**request)
            allowed = statuses_for_a_foreign_token(method, path, way, role)
            assert status_of(answer, way) in allowed, (way, address, answer.text)
    assert await events_of(service, victim, third) == before


@pytest.mark.parametrize(("method", "path"), commands())
async def test_command_that_a_foreign_page_can_send_is_unauthorized(service: InProcess, method: str, path: str) -> None:
    """A browser adds cookies at most; scripts and preflights with the token in a header do not act."""
    victim, other = await new_user(service), await new_user(service)
    if method == "DELETE":
        await follow_each_other(service, victim, other)
    token = service.token(victim.id, role="service", scope=SCOPES)
    before = await log_end(service)
    for address in paths_of(path, victim.id, other.id):
        for way, request in ways_to_send(method, path, address, token):
            if way not in ("cookie", "JSON-P by header"):
                continue
            answer = await service.anybody.request(**request)
            assert status_of(answer, way) == 401, (way, address, answer.text)
        preflight = await service.anybody.options(address, headers={"Origin": "https://evil.example"})
        assert preflight.headers.get("access-control-allow-credentials") is None
    assert await log_end(service) == before


# ---- invalid tokens


def invalid_tokens(service: InProcess, user: str) -> dict[str, str]:
    """Return tokens for ``user`` that must be refused. Apart from their fault they could act in every command."""
    pem = (service.keys / KEY_FILE).read_bytes()
    rights = {"role": "service", "scope": SCOPES}
    good = service.token(user, **rights)
    kid = jwt.get_unverified_header(good)["kid"]
    head, payload, _ = good.split(".")
    of_a_user = service.token(user).rpartition(".")[2]
    now = int(time.time())
    key = serialization.load_pem_private_key(pem, password=None)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def mac() -> str:
        said = f"{segment(json.dumps({'alg': 'HS256', 'kid': kid}).encode())}.{payload}"
        return f"{said}.{segment(hmac.new(public, said.encode(), hashlib.sha256).digest())}"

    def by(other: Any, kid_: str) -> str:
        claims = {"sub": user, "iss": DEV_ISSUER, "aud": AUDIENCE, "exp": now + 600, **rights}
        return jwt.encode(claims, other, algorithm="RS256", headers={"kid": kid_})

    return {
        "alg none": f"{segment(json.dumps({'alg': 'none', 'kid': kid}).encode())}.{payload}.",
        "HS256 with the public key": mac(),
        "another key": by(private_key("a"), kid),
        "another kid": by(key, "another"),
        "expired": service.token(user, exp=now - 60, iat=now - 120, **rights),
        "not yet valid": service.token(user, nbf=now + 600, **rights),
        "wrong issuer": service.token(user, iss="https://evil.example", **rights),
        "another audience": service.token(user, aud="https://other.example", **rights),
        "no audience": service.token(user, aud=None, **rights),
        "unknown role": service.token(user, **{**rights, "role": "suspended"}),
        "cut": good[:-10],
        "without signature": f"{head}.{payload}",
        "doubled": good + good,
        "claims exchanged": f"{head}.{payload}.{of_a_user}",
        "very long, well signed": service.token(user, note="A" * 40_000, **rights),  # it still fits into a body
    }


INVALID: Final = (
    "alg none",
    "HS256 with the public key",
    "another key",
    "another kid",
    "expired",
    "not yet valid",
    "wrong issuer",
    "another audience",
    "no audience",
    "unknown role",
    "cut",
    "without signature",
    "doubled",
    "claims exchanged",
    "very long, well signed",
)


@pytest.mark.parametrize("name", INVALID)
async def test_command_with_an_invalid_token_is_unauthorized_and_changes_nothing(service: InProcess, name: str) -> None:
    user, followed, stranger = [await new_user(service) for _ in range(3)]
    await follow_each_other(service, user, followed)
    tokens = invalid_tokens(service, user.id)
    assert set(tokens) == set(INVALID)
    token = tokens[name]
    before = await log_end(service)
    for method, path in commands():
        other = followed if method == "DELETE" else stranger
        address = paths_of(path, user.id, other.id)[-1 if path.startswith("/v1") else 1]
        for way, request in ways_to_send(method, path, address, token):
            answer = await service.anybody.request(**request)
            assert status_of(answer, way) == 401, (way, address, answer.text)
            assert token[:40] not in answer.text
    assert await log_end(service) == before


@pytest.mark.parametrize(("method", "path"), commands())
async def test_command_with_a_valid_token_acts_wherever_the_token_is_read(
    service: InProcess, method: str, path: str
) -> None:
    """Control: the tests above refuse the tokens, not the requests. Each request would reach the log."""
    acted, ways = 0, ("Bearer", "bearer in lower case", "query", "OAuth", "JSON-P", "form", "JSON", "cookie")
    for way in (*ways, "JSON-P by header"):
        user, other = await new_user(service), await new_user(service)
        if method == "DELETE":
            await follow_each_other(service, user, other)
        token = service.token(user.id, role="service", scope=SCOPES)
        address = paths_of(path, user.id, other.id)[-1 if path.startswith("/v1") else 1]
        request = dict(ways_to_send(method, path, address, token)).get(way)
        if request is None:
            continue
        before = await log_end(service)
        answer = await service.anybody.request(**request)
        is_read = is_token_read(way, method, path)
        assert (status_of(answer, way) in (200, 201, 204)) == is_read, (way, answer.text)
        assert (await log_end(service) > before) == is_read, way
        acted += is_read
    assert acted == (2 if path.startswith("/v1") else {"PUT": 7, "DELETE": 5}[method])


# ---- through a real server


# The server's limits for a head (its buffer), a line and a body, less what a request has besides its token.
HEAD_MAX: Final = 417_792 - 1_000
LINE_MAX: Final = 65_534 - 200
FIELDS_MAX: Final = BODY_MAX - 200
MEGABYTE: Final = 1_000_000


def longest(way: str) -> int:
    """Return the length of the longest token that reaches the application when sent this way."""
    lengths = {"query": LINE_MAX, "JSON-P": LINE_MAX, "form": FIELDS_MAX, "JSON": FIELDS_MAX, "cookie": HEAD_MAX // 2}
    return lengths.get(way, HEAD_MAX)


def of_length(service: Service, user: str, length: int) -> str:
    """Return a correctly signed token with all rights, at most 8 characters shorter than ``length``."""
    scopes = SCOPES.split()
    empty = len(service.token(user, "service", scopes, note=""))
    token = service.token(user, "service", scopes, note="A" * ((length - empty) * 3 // 4 - 2))
    assert length - 8 < len(token) <= length
    return token


def in_bytes(request: Request) -> bytes:
    """Return a request of any length as sent over the wire; the server closes the connection after its answer."""
    query = f"?{urlencode(request['params'])}" if "params" in request else ""
    headers = {"Host": "follows.test", "Connection": "close", **request.get("headers", {})}
    body = ""
    if "data" in request:
        headers["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(request["data"])
    elif "json" in request:
        headers["Content-Type"], body = "application/json", json.dumps(request["json"])
    headers["Content-Length"] = str(len(body))
    lines = [f"{request['method']} {request['url']}{query} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", body]).encode()


def count_events(database_url: str) -> int:
    """Return the number of events in the log."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT count(*) FROM events").fetchone()
        assert found is not None
        return int(found[0])


def test_longest_tokens_through_a_real_server_are_refused(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """All are correctly signed and too long. The application says so to those that reach it; a megabyte is refused by
    the server or as too large a body."""
    with running_service(database_url, redis_url, queue_url, service_folder) as service:
        url = urlsplit(service.base_url)
        address = url.hostname or "", url.port or 0
        with service.client("platform", "service") as platform, service.client("ann") as ann:
            for id_ in ("ann", "bob", "cem"):
                platform.put(f"/v1/users/{id_}", json={}).raise_for_status()
            platform.put("/v1/users/bob/broadcast", json=BROADCAST).raise_for_status()
            ann.post("/v1/users/bob/follow").raise_for_status()
        before = count_events(database_url)
        fitting = {
            length: of_length(service, "ann", length) for length in {HEAD_MAX, LINE_MAX, FIELDS_MAX, HEAD_MAX // 2}
        }
        megabyte = of_length(service, "ann", MEGABYTE)
        for method, path in commands():
            place = paths_of(path, "ann", "bob" if method == "DELETE" else "cem")[-1 if path.startswith("/v1") else 1]
            for way, _ in ways_to_send(method, path, place, ""):
                request = dict(ways_to_send(method, path, place, fitting[longest(way)]))[way]
                said = exchange(address, in_bytes(request), ends=False)
                assert said[9:12] == (b"200" if way.startswith("JSON-P") else b"401"), (way, place, said)
                if is_token_read(way, method, path):
                    assert b"longer than %d characters" % TOKEN_LENGTH_MAX in said, (way, place, said)
                else:
                    assert b"oken" in said and b"401" in said, (way, place, said)
                said = exchange(address, in_bytes(dict(ways_to_send(method, path, place, megabyte))[way]), ends=False)
                assert said[9:12] in (b"431", b"413", b"401", b""), (way, place, said)
        assert count_events(database_url) == before
