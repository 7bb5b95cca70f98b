"""Tokens: a valid one identifies a caller; forged, expired and misdirected ones are refused."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import assume, given
from hypothesis import strategies as st

from api.auth.claims import caller_of, read_claims
from api.auth.jwks import VerificationKeys
from api.auth.key_sources import FILE_MAX_AGE_S, FileSource
from api.auth.tokens import LEEWAY_S, AuthSettings, Caller, TokenVerifier, token_from_header
from commands.errors import SettingsError, Unauthenticated
from tests.support.clock import NOW, Clock
from tests.support.signing import ISSUER, claims, private_key, segment, signed, token, write_keys


def verifier_of(path: Path, clock: Clock, audience: str | None = None, *user_roles: str) -> TokenVerifier:
    settings = AuthSettings(str(path), ISSUER, audience, user_roles=frozenset({"user", *user_roles}))
    return TokenVerifier(settings, VerificationKeys(FileSource(path), clock=clock), now=clock)


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
def verifier(jwks: Path, clock: Clock) -> TokenVerifier:
    return verifier_of(jwks, clock)


async def test_valid_token_identifies_a_caller(verifier: TokenVerifier) -> None:
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


async def test_token_without_role_is_a_users_and_scope_may_be_a_list(verifier: TokenVerifier) -> None:
    caller = await verifier.verify(token(role=..., scope=["user_read"], iat=..., username=7, email=" "))
    assert caller == Caller("01JN2XF5A", "user", frozenset({"user_read"}), int(NOW), int(NOW) + 600)


def test_caller_in_a_log_line_has_no_personal_data() -> None:
    caller = caller_of(read_claims(json.dumps(claims(email="ann@example.org")).encode()), NOW, {"user"}, 0)
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
    "sub too long": ({"sub": "a" * 129}, "sub"),
    "sub with a line end": ({"sub": "a\n"}, "sub"),
    "sub with a slash": ({"sub": "a/b"}, "sub"),
    "sub that begins with a dot": ({"sub": ".a"}, "sub"),
    "sub of a placeholder": ({"sub": "~erased-5"}, "sub"),
    "sub that a route has taken": ({"sub": "me"}, "sub"),
    "role unknown": ({"role": "suspended"}, "role"),
    "role empty": ({"role": ""}, "role"),
    "role a list": ({"role": ["admin"]}, "role"),
    "scope a number": ({"scope": 1}, "scope"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED_CLAIMS.values(), ids=REFUSED_CLAIMS.keys())
async def test_signed_token_with_wrong_claims_is_refused(
    verifier: TokenVerifier, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(Unauthenticated, match=reason):
        await verifier.verify(token(**changes))


def hs256_with_the_public_key() -> str:
    """Return a token that a verifier would accept if the token could choose HS256: its secret is the public key."""
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
    "no kid, another key": signed(PAYLOAD, "c", kid=...),
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
async def test_forged_or_damaged_token_is_refused_without_being_quoted(verifier: TokenVerifier, text: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(text)
    assert not any(part and part in caught.value.message for part in text.split("."))


@pytest.fixture(scope="module")
def one_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    write_keys(path, "a")
    return path


async def test_wrong_algorithm_is_refused_without_any_key(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(Unauthenticated, match="RS256"):
        await verifier_of(tmp_path / "no.json", clock).verify(without_signature("none"))


GOOD = token()


@given(place=st.integers(0, len(GOOD) - 1), letter=st.sampled_from("AQgw09-_.= é"))
async def test_token_with_one_changed_letter_is_refused(one_key: Path, place: int, letter: str) -> None:
    changed = GOOD[:place] + letter + GOOD[place + 1 :]
    assume(changed != GOOD)
    with pytest.raises(Unauthenticated):
        await verifier_of(one_key, Clock()).verify(changed)


async def test_times_are_accepted_up_to_the_leeway(verifier: TokenVerifier, clock: Clock) -> None:
    await verifier.verify(token(nbf=NOW + LEEWAY_S, iat=NOW + LEEWAY_S))
    clock.time = NOW + 600 + LEEWAY_S - 0.5
    await verifier.verify(token())


@pytest.mark.parametrize("leeway_s", [0, 120])
async def test_leeway_is_the_one_of_the_settings(jwks: Path, clock: Clock, leeway_s: int) -> None:
    env = {"FOLLOWS_JWKS": str(jwks), "FOLLOWS_ISSUER": ISSUER, "FOLLOWS_TOKEN_LEEWAY_S": str(leeway_s)}
    verifier = TokenVerifier(AuthSettings.from_env(env), VerificationKeys(FileSource(jwks), clock=clock), now=clock)
    await verifier.verify(token(nbf=NOW + leeway_s, iat=NOW + leeway_s))
    for late in ({"nbf": NOW + leeway_s + 1}, {"iat": NOW + leeway_s + 1}):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token(**late))
    cached = await verifier.verify(token())
    clock.time = NOW + 600 + leeway_s - 0.5
    assert await verifier.verify(token()) is cached
    clock.time += 0.5
    for text in (token(), token(note="not cached")):
        with pytest.raises(Unauthenticated, match="expired"):
            await verifier.verify(text)


@pytest.mark.parametrize("text", ["-1", "301", "1.5", "x"])
def test_leeway_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    env = {"FOLLOWS_JWKS": "x", "FOLLOWS_ISSUER": "i", "FOLLOWS_TOKEN_LEEWAY_S": text}
    with pytest.raises(SettingsError, match="FOLLOWS_TOKEN_LEEWAY_S"):
        AuthSettings.from_env(env)


async def test_audience_is_checked_only_where_it_is_set(jwks: Path, clock: Clock, verifier: TokenVerifier) -> None:
    ours = verifier_of(jwks, clock, "follows")
    await verifier.verify(token(aud="elsewhere"))
    await ours.verify(token(aud="follows"))
    await ours.verify(token(aud=["elsewhere", "follows"]))
    for aud in ("elsewhere", ["elsewhere"], [], ..., "follows2"):
        with pytest.raises(Unauthenticated, match="audience"):
            await ours.verify(token(aud=aud))


async def test_roles_in_the_settings_mean_user(jwks: Path, clock: Clock) -> None:
    verifier = verifier_of(jwks, clock, None, "creator")
    assert (await verifier.verify(token(role="creator"))).role == "user"
    assert (await verifier.verify(token(role="guest"))).role == "guest"


async def test_cached_token_still_expires(verifier: TokenVerifier, clock: Clock) -> None:
    first = await verifier.verify(token())
    clock.time = NOW + 600 + LEEWAY_S - 0.5
    assert await verifier.verify(token()) is first
    clock.time += 0.5
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="expired"):
            await verifier.verify(token())


async def test_token_found_without_waiting_is_checked_as_any_other(
    verifier: TokenVerifier, jwks: Path, clock: Clock
) -> None:
    """Of an expired token, and while keys are due or have changed, nothing is found."""
    found = await verifier.verify(token())
    assert verifier.cached(token().encode()) is found and verifier.cached(token(sub="bob").encode()) is None
    write_keys(jwks, "b")
    clock.time += FILE_MAX_AGE_S
    assert verifier.cached(token().encode()) is None
    await verifier.keys.refresh()
    assert not verifier.keys.is_due() and verifier.cached(token().encode()) is None
    short = token("b", exp=int(clock.time) + 1, iat=int(NOW))
    await verifier.verify(short)
    await verifier.keys.refresh()
    assert verifier.cached(short.encode()) is not None
    clock.time += 1.0
    await verifier.keys.refresh()
    assert verifier.cached(short.encode()) is None


async def test_full_cache_drops_the_token_used_longest_ago(jwks: Path, clock: Clock) -> None:
    verifier = verifier_of(jwks, clock)
    verifier.verified.bytes_max = 2_000
    ann = await verifier.verify(token(sub="ann"))
    bob = await verifier.verify(token(sub="bob"))
    assert await verifier.verify(token(sub="ann")) is ann
    await verifier.verify(token(sub="cem"))  # replaces the token of bob, which was used longest ago
    assert await verifier.verify(token(sub="ann")) is ann
    assert await verifier.verify(token(sub="bob")) is not bob


async def test_withdrawn_key_invalidates_its_cached_tokens(verifier: TokenVerifier, jwks: Path, clock: Clock) -> None:
    await verifier.verify(token("a"))
    write_keys(jwks, "b")
    clock.time += FILE_MAX_AGE_S
    with pytest.raises(Unauthenticated, match="not known"):
        await verifier.verify(token("a"))
    await verifier.verify(token("b"))


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER   abc ", " Bearer abc"])
def test_token_is_read_from_a_header_of_a_known_scheme(header: str) -> None:
    assert token_from_header(header) == "abc"
    assert token_from_header("OAuth abc", ("OAuth", "Bearer")) == "abc"


@pytest.mark.parametrize(
    "header", ["", "abc", "Bearer", "Bearer ", "Basic abc", "OAuth abc", "Bearer a b", "Bearerabc"]
)
def test_header_without_one_token_is_refused(header: str) -> None:
    with pytest.raises(Unauthenticated, match="Authorization"):
        token_from_header(header)


def test_settings_without_keys_or_issuer_are_refused() -> None:
    for env in ({}, {"FOLLOWS_JWKS": ""}, {"FOLLOWS_JWKS": "x"}, {"FOLLOWS_ISSUER": "x"}):
        with pytest.raises(SettingsError, match="is not set"):
            AuthSettings.from_env(env)


def test_settings_are_read_from_the_environment() -> None:
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
def test_every_environment_but_development_is_production(word: str, production: bool) -> None:
    env = {"FOLLOWS_JWKS": "x", "FOLLOWS_ISSUER": "i"}
    assert AuthSettings.from_env(env).production
    assert AuthSettings.from_env({**env, "FOLLOWS_ENV": word}).production is production
