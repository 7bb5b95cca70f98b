"""Nobody acts for another, in any call of the route table, however a token is sent; and a bad token acts for nobody.

The judge is the log: whatever is answered, the victim's own events stay as they were.
"""

import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from litestar.routes import HTTPRoute
from sqlalchemy import text

from api.kraken.routes import router as kraken_router
from api.v1.routes import router as v1_router
from cli.dev_key import DEV_ISSUER, KEY_FILE
from tests.api.in_process import InProcess
from tests.api.kraken.people import SCOPES, somebody
from tests.api.signing import private_key, segment

Request = dict[str, Any]


def commands() -> list[tuple[str, str]]:
    """(method, path) of every call that changes something, as the routers have them."""
    found = []
    for router in (v1_router, kraken_router):
        for route in router.routes:
            if isinstance(route, HTTPRoute):
                found += [(method, route.path_format) for method in route.methods - {"GET", "OPTIONS"}]
    return sorted(found)


def placed(path: str, token: str, method: str) -> Iterator[tuple[str, Request]]:
    """Every way to send ``token`` with a command, and the request's name."""
    base = {"method": method, "url": path}
    yield "Bearer", {**base, "headers": {"Authorization": f"Bearer {token}"}}
    yield "bearer in lower case", {**base, "headers": {"authorization": f"bearer {token}"}}
    yield "cookie", {**base, "headers": {"Cookie": f"oauth_token={token}; token={token}"}}
    yield "query", {**base, "params": {"oauth_token": token}}
    yield "form", {**base, "data": {"oauth_token": token}}
    yield "JSON", {**base, "json": {"oauth_token": token}}
    if path.startswith("/kraken"):
        yield "OAuth", {**base, "headers": {"Authorization": f"OAuth {token}"}}
        asked = {"callback": "f", "_method": method, "oauth_token": token}
        yield "JSON-P", {"method": "GET", "url": path, "params": asked}
        by_header = {"Authorization": f"OAuth {token}"}
        yield (
            "JSON-P by header",
            {"method": "GET", "url": path, "params": asked | {"oauth_token": ""}, "headers": by_header},
        )


def filled(path: str, victim: str, other: str) -> list[str]:
    """The path with the victim in all or some places that name somebody, else the other; a new name fails here."""
    names = [name.strip("{}").partition(":")[0] for name in path.split("/") if name.startswith("{")]
    assert set(names) <= {"user_id", "user", "target"}, f"{path} names somebody in a new way: say here who it is"
    filled = []
    for people in itertools.product((victim, other), repeat=len(names)):
        given = dict(zip(names, people, strict=True))
        filled.append("/".join(given.get(part.strip("{}").partition(":")[0], part) for part in path.split("/")))
    return filled


async def events_of(service: InProcess, *ids: str) -> int:
    """How many events the log has of what these users did or are."""
    numbers = [await service.parts.directory.number(id_) for id_ in ids]
    async with service.parts.engine.connect() as connection:
        statement = text("SELECT count(*) FROM events WHERE subject = ANY(:numbers)")
        found: int = (await connection.execute(statement, {"numbers": numbers})).scalar_one()
        return found


def refused(answer: httpx.Response, way: str) -> bool:
    """Whether it is a refusal, for a script inside of its call."""
    if way.startswith("JSON-P"):
        body: dict[str, Any] = json.loads(answer.text.removeprefix("f(").removesuffix(");") or "{}")
        return int(body.get("status", 200)) >= 400
    return 400 <= answer.status_code < 500


def test_the_route_table_is_read() -> None:
    """The control: without it, a search that finds nothing would find all well."""
    assert len(commands()) == 8


@pytest.mark.parametrize(("method", "path"), commands())
@pytest.mark.parametrize("role", ["user", "guest"])
async def test_with_anothers_token(service: InProcess, method: str, path: str, role: str) -> None:
    victim, attacker, third = [await somebody(service) for _ in range(3)]
    token = service.token(attacker.id, role=role, scope=SCOPES)
    before = await events_of(service, victim.id, third.id)
    for address in filled(path, victim.id, third.id):
        for way, request in placed(address, token, method):
            answer = await service.anybody.request(**request)
            acted_for_himself = path.startswith("/v1") and path.endswith("/follow") and way.lower().startswith("bearer")
            assert refused(answer, way) or (acted_for_himself and role == "user"), (way, address, answer.text)
    assert await events_of(service, victim.id, third.id) == before


@pytest.mark.parametrize(("method", "path"), commands())
async def test_what_a_page_of_somebody_else_can_send(service: InProcess, method: str, path: str) -> None:
    """A browser adds cookies at most; and scripts and preflights that carry the token in a header do not act."""
    victim, other = await somebody(service), await somebody(service)
    token = service.token(victim.id, scope=SCOPES)
    before = await events_of(service, victim.id, other.id)
    for address in filled(path, victim.id, other.id):
        for way, request in placed(address, token, method):
            if way not in ("cookie", "JSON-P by header"):
                continue
            assert refused(await service.anybody.request(**request), way), (way, address)
        preflight = await service.anybody.options(address, headers={"Origin": "https://evil.example"})
        assert preflight.headers.get("access-control-allow-credentials") is None
    assert await events_of(service, victim.id, other.id) == before


# ---- bad tokens


def bad_tokens(service: InProcess, user: str) -> dict[str, str]:
    """Tokens that speak for ``user`` and must not be believed."""
    pem = (service.keys / KEY_FILE).read_bytes()
    good = service.token(user, scope=SCOPES)
    kid = jwt.get_unverified_header(good)["kid"]
    head, payload, signature = good.split(".")
    now = int(time.time())
    key = serialization.load_pem_private_key(pem, password=None)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def mac() -> str:
        said = f"{segment(json.dumps({'alg': 'HS256', 'kid': kid}).encode())}.{payload}"
        return f"{said}.{segment(hmac.new(public, said.encode(), hashlib.sha256).digest())}"

    def by(other: Any, kid_: str) -> str:
        claims = {"sub": user, "iss": DEV_ISSUER, "exp": now + 600, "scope": SCOPES}
        return jwt.encode(claims, other, algorithm="RS256", headers={"kid": kid_})

    return {
        "alg none": f"{segment(json.dumps({'alg': 'none', 'kid': kid}).encode())}.{payload}.",
        "HS256 with the public key": mac(),
        "another key": by(private_key("a"), kid),
        "another kid": by(key, "another"),
        "expired": service.token(user, exp=now - 60, iat=now - 120, scope=SCOPES),
        "not yet valid": service.token(user, nbf=now + 600, scope=SCOPES),
        "wrong issuer": service.token(user, iss="https://evil.example", scope=SCOPES),
        "unknown role": service.token(user, role="suspended", scope=SCOPES),
        "cut": good[:-10],
        "without signature": f"{head}.{payload}",
        "doubled": good + good,
        "claims exchanged": f"{head}.{segment(json.dumps({'sub': user}).encode())}.{signature}",
        "very long": good + "A" * 60_000,  # as long as a client sends; a megabyte is in test_auth.py
    }


@pytest.mark.parametrize(
    "bad",
    sorted(
        [
            "alg none",
            "HS256 with the public key",
            "another key",
            "another kid",
            "expired",
            "not yet valid",
            "wrong issuer",
            "unknown role",
            "cut",
            "without signature",
            "doubled",
            "claims exchanged",
            "very long",
        ]
    ),
)
async def test_a_bad_token_acts_for_nobody(service: InProcess, bad: str) -> None:
    user, other = await somebody(service), await somebody(service)
    token = bad_tokens(service, user.id)[bad]
    before = await events_of(service, user.id, other.id)
    for method, path in commands():
        address = filled(path, user.id, other.id)[-1 if path.startswith("/v1") else 1]
        for way, request in placed(address, token, method):
            answer = await service.anybody.request(**request)
            assert refused(answer, way), (way, address, answer.text)
            assert token[:40] not in answer.text
    assert await events_of(service, user.id, other.id) == before


async def test_a_good_token_acts_in_the_same_places(service: InProcess) -> None:
    """The control: it is the tokens that are refused above, not the requests."""
    user, other = await somebody(service), await somebody(service)
    token = service.token(user.id, scope=SCOPES)
    address = f"/kraken/users/{user.id}/follows/channels/{other.id}"
    for way, request in placed(address, token, "PUT"):
        answer = await service.anybody.request(**request)
        assert refused(answer, way) == (way in ("cookie", "JSON-P by header")), (way, answer.text)
