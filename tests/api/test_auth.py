"""Tokens: the good ones make a caller, and no forged, worn-out or misdirected one gets through."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import assume, given
from hypothesis import strategies as st

from api import auth
from api.auth import AuthSettings, Caller, Verifier, credentials
from api.claims import LEEWAY_S, caller_of, read_claims
from api.jwks import Keys
from api.key_sources import FILE_MAX_AGE_S, FileSource
from commands.errors import SettingsError, Unauthenticated
from tests.api.signing import ISSUER, NOW, Clock, claims, private_key, segment, signed, token, write_keys


def verifier_of(path: Path, clock: Clock, audience: str | None = None, *user_roles: str) -> Verifier:
    settings = AuthSettings(str(path), ISSUER, audience, user_roles=frozenset({"user", *user_roles}))
    return Verifier(settings, Keys(FileSource(path), clock=clock), now=clock)


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    """A key set with the keys `a` and `b`."""
    path = tmp_path / "jwks.json"
    write_keys(path, "a", "b")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(jwks: Path, clock: Clock) -> Verifier:
    return verifier_of(jwks, clock)


async def test_a_good_token_makes_a_caller(verifier: Verifier) -> None:
    text = token(role="service", scope="user_read user_follows_edit", preferred_username="ann", name="Ann")
    assert await verifier.verify(text) == Caller(
        id="01JN2XF5A",
        role="service",
        scopes=frozenset({"user_read", "user_follows_edit"}),
        issued_at=int(NOW),
        expires_at=int(NOW) + 600,
        login="ann",
        display_name="Ann",
    )


async def test_role_defaults_to_user_and_scope_may_be_a_list(verifier: Verifier) -> None:
    caller = await verifier.verify(token(role=..., scope=["user_read"], iat=..., username=7, email=" "))
    assert caller == Caller("01JN2XF5A", "user", frozenset({"user_read"}), int(NOW), int(NOW) + 600)


def test_a_caller_in_a_log_line_carries_no_name() -> None:
    caller = caller_of(read_claims(json.dumps(claims(email="ann@example.org")).encode()), NOW, {"user"})
    assert repr(caller) == "Caller('01JN2XF5A', 'user')"


REFUSED_CLAIMS = {
    "expired": ({"exp": int(NOW) - LEEWAY_S}, "expired"),
    "exp missing": ({"exp": ...}, "exp"),
    "exp a text": ({"exp": "1"}, "exp"),
    "exp true": ({"exp": True}, "exp"),
    "exp beyond time": ({"exp": 10**15}, "range"),
    "exp negative": ({"exp": -1}, "range"),
    "nbf to come": ({"nbf": int(NOW) + LEEWAY_S + 1}, "not valid yet"),
    "iat to come": ({"iat": int(NOW) + LEEWAY_S + 1}, "future"),
    "iat after exp": ({"exp": int(NOW) - 3, "iat": int(NOW)}, "before it was issued"),
    "iss wrong": ({"iss": "https://evil.example"}, "issuer"),
    "iss a prefix": ({"iss": ISSUER + "/"}, "issuer"),
    "iss missing": ({"iss": ...}, "iss"),
    "sub missing": ({"sub": ...}, "sub"),
    "sub empty": ({"sub": ""}, "sub"),
    "sub a number": ({"sub": 7}, "sub"),
    "sub too long": ({"sub": "a" * 65}, "sub"),
    "sub with a line end": ({"sub": "a\n"}, "sub"),
    "sub with a colon": ({"sub": "a:b"}, "sub"),
    "role unknown": ({"role": "suspended"}, "role"),
    "role empty": ({"role": ""}, "role"),
    "role a list": ({"role": ["admin"]}, "role"),
    "scope a number": ({"scope": 1}, "scope"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED_CLAIMS.values(), ids=REFUSED_CLAIMS.keys())
async def test_signed_but_refused(verifier: Verifier, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(Unauthenticated, match=reason):
        await verifier.verify(token(**changes))


def hs256_with_the_public_key() -> str:
    """The classic: an RSA verifier that lets the token choose takes its public key for a shared secret."""
    public = private_key("a").public_key()
    secret = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = json.dumps({"alg": "HS256", "kid": "a"}).encode()
    text = f"{segment(header)}.{segment(json.dumps(claims()).encode())}"
    return f"{text}.{segment(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def without_signature(alg: str) -> str:
    header = json.dumps({"alg": alg, "kid": "a"}).encode()
    return f"{segment(header)}.{segment(json.dumps(claims()).encode())}."


def with_other_claims() -> str:
    head, _, signature = token().split(".")
    return f"{head}.{segment(json.dumps(claims(role='admin')).encode())}.{signature}"


PAYLOAD = json.dumps(claims()).encode()
FORGED = {
    "alg none": without_signature("none"),
    "alg None": without_signature("None"),
    "alg RS256 unsigned": without_signature("RS256"),
    "HS256 with the public key": hs256_with_the_public_key(),
    "signed by another key": signed(PAYLOAD, "b", kid="a"),
    "unknown kid": token("c"),
    "no kid, two keys": signed(PAYLOAD, kid=...),
    "kid a number": token().replace(token().split(".")[0], segment(b'{"alg":"RS256","kid":1}')),
    "claims exchanged": with_other_claims(),
    "crit we do not know": signed(PAYLOAD, crit=["exp"], exp=1),
    "b64 off": signed(PAYLOAD, crit=["b64"], b64=False),
    "cut at the end": token()[:-1],
    "cut in two": token()[: len(token()) // 2],
    "without signature": token().rpartition(".")[0],
    "doubled": token() * 2,
    "doubled with a dot": f"{token()}.{token()}",
    "one more part": f"{token()}.e30",
    "padded": token() + "=",
    "empty": "",
    "dots": "..",
    "no JSON inside": signed(b"claims"),
    "a list inside": signed(b"[1]"),
    "bad UTF-8 inside": signed(b'{"sub":"\xff"}'),
    "not ASCII": token() + "é",
    "a lone surrogate": token() + "\udcff",
    "a megabyte": "a" * 1_000_000,
    "a megabyte, well signed": token(note="a" * 1_000_000),
}


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED.keys())
async def test_forged_or_broken(verifier: Verifier, text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(text)
    assert not any(part and part in caught.value.message for part in text.split("."))


@pytest.fixture(scope="module")
def one_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    write_keys(path, "a")
    return path


async def test_a_wrong_algorithm_needs_no_key_to_be_refused(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(Unauthenticated, match="RS256"):
        await verifier_of(tmp_path / "no.json", clock).verify(without_signature("none"))


GOOD = token()


@given(place=st.integers(0, len(GOOD) - 1), letter=st.sampled_from("AQgw09-_.= é"))
async def test_one_other_letter_breaks_it(one_key: Path, place: int, letter: str) -> None:
    changed = GOOD[:place] + letter + GOOD[place + 1 :]
    assume(changed != GOOD)
    with pytest.raises(Unauthenticated):
        await verifier_of(one_key, Clock()).verify(changed)


async def test_leeway_reaches_exactly_so_far(verifier: Verifier, clock: Clock) -> None:
    await verifier.verify(token(nbf=NOW + LEEWAY_S, iat=NOW + LEEWAY_S))
    clock.time = NOW + 600 + LEEWAY_S - 0.5
    await verifier.verify(token())


async def test_audience_counts_only_where_it_is_set(jwks: Path, clock: Clock, verifier: Verifier) -> None:
    ours = verifier_of(jwks, clock, "follows")
    await verifier.verify(token(aud="elsewhere"))
    await ours.verify(token(aud="follows"))
    await ours.verify(token(aud=["elsewhere", "follows"]))
    for aud in ("elsewhere", ["elsewhere"], [], ..., "follows2"):
        with pytest.raises(Unauthenticated, match="audience"):
            await ours.verify(token(aud=aud))


async def test_the_platform_may_name_more_roles_for_users(jwks: Path, clock: Clock) -> None:
    verifier = verifier_of(jwks, clock, None, "creator")
    assert (await verifier.verify(token(role="creator"))).role == "user"
    assert (await verifier.verify(token(role="guest"))).role == "guest"


async def test_a_remembered_token_still_expires(verifier: Verifier, clock: Clock) -> None:
    first = await verifier.verify(token())
    clock.time = NOW + 600 + LEEWAY_S - 0.5
    assert await verifier.verify(token()) is first
    clock.time += 0.5
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="expired"):
            await verifier.verify(token())


async def test_only_so_many_are_remembered(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "VERIFIED_MAX", 2)
    ann = await verifier.verify(token(sub="ann"))
    bob = await verifier.verify(token(sub="bob"))
    assert await verifier.verify(token(sub="ann")) is ann
    await verifier.verify(token(sub="cem"))  # takes the place of bob, who was not here for longest
    assert await verifier.verify(token(sub="ann")) is ann
    assert await verifier.verify(token(sub="bob")) is not bob


async def test_a_withdrawn_key_takes_remembered_tokens_with_it(verifier: Verifier, jwks: Path, clock: Clock) -> None:
    await verifier.verify(token("a"))
    write_keys(jwks, "b")
    clock.time += FILE_MAX_AGE_S
    with pytest.raises(Unauthenticated, match="not known"):
        await verifier.verify(token("a"))
    await verifier.verify(token("b"))


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER   abc ", " Bearer abc"])
def test_credentials(header: str) -> None:
    assert credentials(header) == "abc"
    assert credentials("OAuth abc", ("OAuth", "Bearer")) == "abc"


@pytest.mark.parametrize(
    "header", ["", "abc", "Bearer", "Bearer ", "Basic abc", "OAuth abc", "Bearer a b", "Bearerabc"]
)
def test_no_credentials(header: str) -> None:
    with pytest.raises(Unauthenticated, match="Authorization"):
        credentials(header)


def test_no_keys_no_start() -> None:
    for env in ({}, {"FOLLOWS_JWKS": ""}, {"FOLLOWS_JWKS": "x"}, {"FOLLOWS_ISSUER": "x"}):
        with pytest.raises(SettingsError, match="is not set"):
            AuthSettings.from_env(env)


def test_settings_from_the_environment() -> None:
    env = {
        "FOLLOWS_JWKS": "x",
        "FOLLOWS_ISSUER": "i",
        "FOLLOWS_ENV": "production",
        "FOLLOWS_USER_ROLES": "creator, mod",
    }
    expected = AuthSettings("x", "i", None, True, frozenset({"user", "creator", "mod"}))
    assert AuthSettings.from_env(env) == expected


@pytest.mark.parametrize(
    ("word", "production"),
    [("", True), ("production", True), ("prod", True), ("live", True), ("development", False), ("Development ", False)],
)
def test_only_development_is_not_production(word: str, production: bool) -> None:
    env = {"FOLLOWS_JWKS": "x", "FOLLOWS_ISSUER": "i"}
    assert AuthSettings.from_env(env).production
    assert AuthSettings.from_env({**env, "FOLLOWS_ENV": word}).production is production
