"""Nobody acts for another, in any call of the route table, however a token is sent; and a bad token acts for nobody.

Each command is sent where it would act if its token were believed: the control at the end is the same with good ones.
Two judge: the status, which must say that it was the token, and the log, where nothing of the victim's may change.
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
from api.auth import TOKEN_LENGTH_MAX
from api.kraken.routes import router as kraken_router
from api.v1.routes import router as v1_router
from cli.dev_key import DEV_ISSUER, KEY_FILE
from commands import log
from tests.api.in_process import InProcess, Person, in_process
from tests.api.kraken.people import SCOPES, somebody
from tests.api.signing import private_key, segment
from tests.proof.sockets import said_to
from tests.servers import Service, running_service

Request = dict[str, Any]
AUDIENCE: Final = "https://follows.example"
BROADCAST: Final = {"game": "Chess", "title": "Endgames", "viewers": 7}
# What the directory's calls need to act.
BODIES: Final[dict[tuple[str, str], Request]] = {
    ("PUT", "/v1/users/{user_id}"): {"bio": "changed by a stranger"},
    ("PUT", "/v1/users/{user_id}/broadcast"): BROADCAST,
}


class OfAnAudience(InProcess):
    """The application where it believes only tokens made for it."""

    def token(self, user: str, /, role: str = "user", **claims: object) -> str:
        return super().token(user, role, **{"aud": AUDIENCE, **claims})


@pytest.fixture(scope="module")
async def service(module_settings: dict[str, str], keys: Path) -> AsyncIterator[InProcess]:
    """The usual application, with an audience: without one every audience is good."""
    async with in_process({**module_settings, "FOLLOWS_AUDIENCE": AUDIENCE}, keys) as running:
        yield OfAnAudience(running.app, running.parts, running.keys)


def commands() -> list[tuple[str, str]]:
    """(method, path) of every call that changes something, as the routers have them."""
    found = []
    for router in (v1_router, kraken_router):
        for route in router.routes:
            if isinstance(route, HTTPRoute):
                found += [(method, route.path_format) for method in route.methods - {"GET", "OPTIONS"}]
    return sorted(found)


def placed(method: str, path: str, address: str, token: str) -> Iterator[tuple[str, Request]]:
    """Every way to send ``token`` with a command of the route ``path``, and the request's name."""
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


def is_heard(way: str, method: str, path: str) -> bool:
    """Whether a token that is sent this way is one, by the dialect's document: elsewhere there is no token."""
    if path.startswith("/v1"):
        return way.lower().startswith("bearer")
    return way not in ("cookie", "JSON-P by header") and (method == "PUT" or way not in ("form", "JSON"))


def filled(path: str, victim: str, other: str) -> list[str]:
    """The path with the victim in all or some places that name somebody, else the other; a new name fails here."""
    names = [name.strip("{}").partition(":")[0] for name in path.split("/") if name.startswith("{")]
    assert set(names) <= {"user_id", "user", "target"}, f"{path} names somebody in a new way: say here who it is"
    filled = []
    for people in itertools.product((victim, other), repeat=len(names)):
        given = dict(zip(names, people, strict=True))
        filled.append("/".join(given.get(part.strip("{}").partition(":")[0], part) for part in path.split("/")))
    return filled


async def bound(service: InProcess, one: Person, other: Person) -> None:
    """Make what a DELETE would end: two who follow each other, and are live."""
    for person, followed in ((one, other), (other, one)):
        assert (await person.follow(followed)).status_code == 201
        live = await service.platform.put(f"/v1/users/{person.id}/broadcast", json=BROADCAST)
        assert live.status_code == 204, live.text


async def events_of(service: InProcess, *people: Person) -> int:
    """How many events the log has of what these users did or are."""
    numbers = [await service.parts.directory.number(person.id) for person in people]
    async with service.parts.engine.connect() as connection:
        statement = text("SELECT count(*) FROM events WHERE subject = ANY(:numbers)")
        found: int = (await connection.execute(statement, {"numbers": numbers})).scalar_one()
        return found


async def log_end(service: InProcess) -> int:
    """The log's last position."""
    return (await log.head(service.parts.engine)).position


def status_of(answer: httpx.Response, way: str) -> int:
    """An answer's status, which for a script stands inside of its call."""
    if not way.startswith("JSON-P"):
        return answer.status_code
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/javascript", answer.text
    assert answer.text.startswith("f(") and answer.text.endswith(");"), answer.text
    body: dict[str, Any] = json.loads(answer.text[2:-2] or "{}")
    return int(body.get("status", 200)) if "error" in body else 200


def test_the_route_table_is_read() -> None:
    """The control: without it, a search that finds nothing would find all well."""
    assert len(commands()) == 8


def answers_to_another(method: str, path: str, way: str, role: str) -> set[int]:
    """What somebody may be told who sends a good token of his own with a command on others.

    A follow of /v1 names only the one who is followed: a user's is his own, and the attacker's second one is there
    already, while he has none to end.
    """
    if not is_heard(way, method, path):
        return {401}
    if path.startswith("/v1") and path.endswith("/follow") and role == "user":
        return {201, 409} if method == "POST" else {404}
    return {403}


@pytest.mark.parametrize(("method", "path"), commands())
@pytest.mark.parametrize("role", ["user", "guest"])
async def test_with_anothers_token(service: InProcess, method: str, path: str, role: str) -> None:
    victim, attacker, third = [await somebody(service) for _ in range(3)]
    if method == "DELETE":
        await bound(service, victim, third)
    token = service.token(attacker.id, role=role, scope=SCOPES)
    before = await events_of(service, victim, third)
    for address in filled(path, victim.id, third.id):
        for way, request in placed(method, path, address, token):
            answer = await service.anybody.request(**request)
            assert status_of(answer, way) in answers_to_another(method, path, way, role), (way, address, answer.text)
    assert await events_of(service, victim, third) == before


@pytest.mark.parametrize(("method", "path"), commands())
async def test_what_a_page_of_somebody_else_can_send(service: InProcess, method: str, path: str) -> None:
    """A browser adds cookies at most; and scripts and preflights that carry the token in a header do not act."""
    victim, other = await somebody(service), await somebody(service)
    if method == "DELETE":
        await bound(service, victim, other)
    token = service.token(victim.id, role="service", scope=SCOPES)
    before = await log_end(service)
    for address in filled(path, victim.id, other.id):
        for way, request in placed(method, path, address, token):
            if way not in ("cookie", "JSON-P by header"):
                continue
            answer = await service.anybody.request(**request)
            assert status_of(answer, way) == 401, (way, address, answer.text)
        preflight = await service.anybody.options(address, headers={"Origin": "https://evil.example"})
        assert preflight.headers.get("access-control-allow-credentials") is None
    assert await log_end(service) == before


# ---- bad tokens


def bad_tokens(service: InProcess, user: str) -> dict[str, str]:
    """Tokens that speak for ``user`` and must not be believed; all claim whatever any command needs."""
    pem = (service.keys / KEY_FILE).read_bytes()
    may = {"role": "service", "scope": SCOPES}
    good = service.token(user, **may)
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
        claims = {"sub": user, "iss": DEV_ISSUER, "aud": AUDIENCE, "exp": now + 600, **may}
        return jwt.encode(claims, other, algorithm="RS256", headers={"kid": kid_})

    return {
        "alg none": f"{segment(json.dumps({'alg': 'none', 'kid': kid}).encode())}.{payload}.",
        "HS256 with the public key": mac(),
        "another key": by(private_key("a"), kid),
        "another kid": by(key, "another"),
        "expired": service.token(user, exp=now - 60, iat=now - 120, **may),
        "not yet valid": service.token(user, nbf=now + 600, **may),
        "wrong issuer": service.token(user, iss="https://evil.example", **may),
        "another audience": service.token(user, aud="https://other.example", **may),
        "no audience": service.token(user, aud=None, **may),
        "unknown role": service.token(user, **{**may, "role": "suspended"}),
        "cut": good[:-10],
        "without signature": f"{head}.{payload}",
        "doubled": good + good,
        "claims exchanged": f"{head}.{payload}.{of_a_user}",
        "very long, well signed": service.token(user, note="A" * 40_000, **may),  # still fits into a body
    }


BAD: Final = (
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


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_token_acts_for_nobody(service: InProcess, bad: str) -> None:
    user, followed, stranger = [await somebody(service) for _ in range(3)]
    await bound(service, user, followed)
    tokens = bad_tokens(service, user.id)
    assert set(tokens) == set(BAD)
    token = tokens[bad]
    before = await log_end(service)
    for method, path in commands():
        other = followed if method == "DELETE" else stranger
        address = filled(path, user.id, other.id)[-1 if path.startswith("/v1") else 1]
        for way, request in placed(method, path, address, token):
            answer = await service.anybody.request(**request)
            assert status_of(answer, way) == 401, (way, address, answer.text)
            assert token[:40] not in answer.text
    assert await log_end(service) == before


@pytest.mark.parametrize(("method", "path"), commands())
async def test_a_good_token_acts_in_the_same_places(service: InProcess, method: str, path: str) -> None:
    """The control: it is the tokens that are refused above, not the requests, and each of them would reach the log."""
    acted, asked = 0, ("Bearer", "bearer in lower case", "query", "OAuth", "JSON-P", "form", "JSON", "cookie")
    for way in (*asked, "JSON-P by header"):
        user, other = await somebody(service), await somebody(service)
        if method == "DELETE":
            await bound(service, user, other)
        token = service.token(user.id, role="service", scope=SCOPES)
        address = filled(path, user.id, other.id)[-1 if path.startswith("/v1") else 1]
        request = dict(placed(method, path, address, token)).get(way)
        if request is None:
            continue
        before = await log_end(service)
        answer = await service.anybody.request(**request)
        heard = is_heard(way, method, path)
        assert (status_of(answer, way) in (200, 201, 204)) == heard, (way, answer.text)
        assert (await log_end(service) > before) == heard, way
        acted += heard
    assert acted == (2 if path.startswith("/v1") else {"PUT": 7, "DELETE": 5}[method])


# ---- through a real server


# What the server lets through, less what a request has beside its token: of a head (its buffer), of a line, of a body.
HEAD_MAX: Final = 417_792 - 1_000
LINE_MAX: Final = 65_534 - 200
FIELDS_MAX: Final = BODY_MAX - 200
MEGABYTE: Final = 1_000_000


def longest(way: str) -> int:
    """How long a token may be that this way still brings to the application."""
    lengths = {"query": LINE_MAX, "JSON-P": LINE_MAX, "form": FIELDS_MAX, "JSON": FIELDS_MAX, "cookie": HEAD_MAX // 2}
    return lengths.get(way, HEAD_MAX)


def of_length(service: Service, user: str, length: int) -> str:
    """A well-signed token for everything that is so long, or some characters less."""
    scopes = SCOPES.split()
    empty = len(service.token(user, "service", scopes, note=""))
    token = service.token(user, "service", scopes, note="A" * ((length - empty) * 3 // 4 - 2))
    assert length - 8 < len(token) <= length
    return token


def in_bytes(request: Request) -> bytes:
    """A request as it goes over the wire, of any length; the connection ends with its answer."""
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


def positions(database_url: str) -> int:
    """How many events the log has."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT count(*) FROM events").fetchone()
        assert found is not None
        return int(found[0])


def test_the_longest_tokens_through_a_real_server(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """All of them are well signed, and too long: those that reach the application are told so, and a megabyte ends
    at the server or in a body that is too large."""
    with running_service(database_url, redis_url, queue_url, service_folder) as service:
        url = urlsplit(service.base_url)
        address = url.hostname or "", url.port or 0
        with service.client("platform", "service") as platform, service.client("ann") as ann:
            for id_ in ("ann", "bob", "cem"):
                platform.put(f"/v1/users/{id_}", json={}).raise_for_status()
            platform.put("/v1/users/bob/broadcast", json=BROADCAST).raise_for_status()
            ann.post("/v1/users/bob/follow").raise_for_status()
        before = positions(database_url)
        fitting = {
            length: of_length(service, "ann", length) for length in {HEAD_MAX, LINE_MAX, FIELDS_MAX, HEAD_MAX // 2}
        }
        megabyte = of_length(service, "ann", MEGABYTE)
        for method, path in commands():
            place = filled(path, "ann", "bob" if method == "DELETE" else "cem")[-1 if path.startswith("/v1") else 1]
            for way, _ in placed(method, path, place, ""):
                request = dict(placed(method, path, place, fitting[longest(way)]))[way]
                said = said_to(address, in_bytes(request), ends=False)
                assert said[9:12] == (b"200" if way.startswith("JSON-P") else b"401"), (way, place, said)
                if is_heard(way, method, path):
                    assert b"longer than %d characters" % TOKEN_LENGTH_MAX in said, (way, place, said)
                else:
                    assert b"oken" in said and b"401" in said, (way, place, said)
                said = said_to(address, in_bytes(dict(placed(method, path, place, megabyte))[way]), ends=False)
                assert said[9:12] in (b"431", b"413", b"401", b""), (way, place, said)
        assert positions(database_url) == before
