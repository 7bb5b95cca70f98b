"""Algorithms: each is verified with a key of its own type, and with no other; keys with one name, or without any."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import serialization

from api.auth.jwks import VerificationKeys
from api.auth.key_set import ALGORITHMS, KEYS_MAX, parse_keys
from api.auth.key_sources import FILE_MAX_AGE_S, URL_RETRY_S, FileSource, InvalidKeys, UrlSource
from api.auth.tokens import AuthSettings, TokenVerifier
from commands.errors import KeysUnavailable, Unauthenticated
from tests.support.clock import Clock
from tests.support.signing import ISSUER, claims, jwk, key_server, key_set, private_key, segment, signed

# The key that signs with each algorithm.
KEY_OF: Final = {
    "RS256": "rsa",
    "RS384": "rsa",
    "RS512": "rsa",
    "PS256": "rsa",
    "ES256": "P-256",
    "ES384": "P-384",
    "EdDSA": "Ed25519",
}
PAYLOAD: Final = json.dumps(claims()).encode()


def bare(name: str, **fields: object) -> dict[str, Any]:
    """Return an entry with nothing but the key's numbers, and these fields."""
    return jwk(name, **{"use": ..., "alg": ..., "kid": ..., **fields})


def of_all_types(**fields: object) -> list[dict[str, Any]]:
    return [bare(name, **fields) for name in ("rsa", "P-256", "P-384", "Ed25519")]


def replace_set(path: Path, *entries: dict[str, Any]) -> None:
    path.write_bytes(key_set(*entries))


def verifier_of(path: Path, *entries: dict[str, Any], clock: Clock | None = None) -> TokenVerifier:
    """Return a verifier with this key set in a file."""
    replace_set(path, *entries)
    clock = clock or Clock()
    return TokenVerifier(AuthSettings(str(path), ISSUER), VerificationKeys(FileSource(path), clock=clock), now=clock)


async def accepts(verifier: TokenVerifier, token: str) -> bool:
    """Return whether the verifier takes the token; any answer but a caller and 401 is an error."""
    try:
        return (await verifier.verify(token)).id == "01JN2XF5A"
    except Unauthenticated:
        return False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


def test_list_of_algorithms_is_the_decided_one() -> None:
    assert set(ALGORITHMS) == set(KEY_OF)


@pytest.mark.parametrize("algorithm", KEY_OF)
@pytest.mark.parametrize(
    "fields", [{}, {"kid": "k"}, {"use": "sig"}, {"key_ops": ["verify"]}, {"use": None, "alg": None, "key_ops": None}]
)
async def test_token_of_each_algorithm_is_verified_in_a_set_of_all_types(
    path: Path, algorithm: str, fields: dict[str, object]
) -> None:
    verifier = verifier_of(path, *of_all_types(**fields))
    assert await accepts(verifier, signed(PAYLOAD, KEY_OF[algorithm], algorithm, kid=fields.get("kid", ...)))


@pytest.mark.parametrize("algorithm", KEY_OF)
@pytest.mark.parametrize("stated", [*KEY_OF, "PS512", "ES512", "HS256", "none", "RSA-OAEP"])
async def test_key_with_an_alg_verifies_only_that_algorithm(path: Path, algorithm: str, stated: str) -> None:
    name = KEY_OF[algorithm]
    verifier = verifier_of(path, bare(name, alg=stated, kid="k"), bare("other", kid="other"))
    assert await accepts(verifier, signed(PAYLOAD, name, algorithm, kid="k")) == (stated == algorithm)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [(algorithm, key) for algorithm, own in KEY_OF.items() for key in dict.fromkeys(KEY_OF.values()) if key != own],
)
async def test_token_that_states_the_algorithm_of_another_type_is_refused(path: Path, algorithm: str, key: str) -> None:
    """The signature is good for the key; the header says what the key cannot do."""
    own = next(name for name, signer in KEY_OF.items() if signer == key)
    verifier = verifier_of(path, bare(key, kid="k"))
    head = segment(json.dumps({"alg": algorithm, "kid": "k"}).encode())
    signature = signed(PAYLOAD, key, own, kid="k").rpartition(".")[2]
    assert not await accepts(verifier, f"{head}.{segment(PAYLOAD)}.{signature}")


@pytest.mark.parametrize("algorithm", KEY_OF)
async def test_signature_of_another_key_of_the_same_type_is_refused(path: Path, algorithm: str) -> None:
    name = KEY_OF[algorithm]
    verifier = verifier_of(path, bare(name, kid="k"))
    assert not await accepts(verifier, signed(PAYLOAD, f"{name}:second", algorithm, kid="k"))


def secrets_of(name: str) -> list[bytes]:
    """Return the forms of a public key that a forger may take for a shared secret."""
    public = private_key(name).public_key()
    forms = serialization.PublicFormat.SubjectPublicKeyInfo
    return [
        public.public_bytes(serialization.Encoding.PEM, forms),
        public.public_bytes(serialization.Encoding.DER, forms),
        b"",
    ]


@pytest.mark.parametrize("name", sorted(set(KEY_OF.values())))
@pytest.mark.parametrize("stated", ["HS256", "HS384", "HS512", "none", "None", "", "hs256", "RS256 ", "PS512", "ES512"])
async def test_shared_secret_and_no_signature_are_never_accepted(path: Path, name: str, stated: str) -> None:
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 64).decode(), "alg": stated}
    verifier = verifier_of(path, bare(name), secret)
    said = f"{segment(json.dumps({'alg': stated}).encode())}.{segment(PAYLOAD)}"
    digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(stated, hashlib.sha256)
    for key in [*secrets_of(name), b"k" * 64]:
        assert not await accepts(verifier, f"{said}.{segment(hmac.new(key, said.encode(), digest).digest())}")
    assert not await accepts(verifier, f"{said}.")


UNUSABLE = {
    "P-521": bare("P-521"),
    "P-521 as ES384": bare("P-521", alg="ES384"),
    "secp256k1": bare("secp256k1"),
    "secp256k1 as P-256": bare("secp256k1", crv="P-256"),
    "Ed448": bare("Ed448"),
    "P-384 as an OKP": bare("P-384", kty="OKP", crv="Ed25519"),
    "point beside the curve": bare("P-256", x=segment(b"\1" * 32)),
    "coordinate too short": bare("P-384", x="AA"),
    "Ed25519 too long": bare("Ed25519", x=segment(b"\1" * 33)),
    "no curve": bare("P-256", crv=...),
    "no base64": bare("P-256", x="é"),
    "RSA too short": bare("short"),
    "RSA too long": bare("rsa", n=segment(b"\xff" * 1025)),
    "encryption": bare("P-256", use="enc"),
    "signing only": bare("Ed25519", key_ops=["sign"]),
    "kid a number": bare("P-256", kid=1),
    "kid a list": bare("P-256", kid=["a"]),
    "kty in small letters": bare("P-256", kty="ec"),
}


@pytest.mark.parametrize("entry", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_key_is_left_out_with_a_line(entry: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = parse_keys(key_set(entry, "b"))
    assert [key.kid for key in found.keys] == ["b"]
    assert "a key of the key set is ignored: entry 0" in caplog.text


async def test_two_keys_without_kid_are_both_tried(path: Path) -> None:
    verifier = verifier_of(path, bare("a"), bare("b"))
    assert [await accepts(verifier, signed(PAYLOAD, key, kid=...)) for key in "abc"] == [True, True, False]


async def test_token_without_kid_is_tried_against_all_keys_of_its_algorithm(path: Path) -> None:
    verifier = verifier_of(path, jwk("a"), bare("P-256", kid="e"), jwk("b", alg="RS512"))
    assert await accepts(verifier, signed(PAYLOAD, "a", kid=...))
    assert await accepts(verifier, signed(PAYLOAD, "P-256", "ES256", kid=...))
    assert not await accepts(verifier, signed(PAYLOAD, "b", kid=...))  # its key is for RS512
    assert await accepts(verifier, signed(PAYLOAD, "b", "RS512", kid=...))


async def test_unknown_kid_means_the_keys_without_one(path: Path) -> None:
    verifier = verifier_of(path, bare("a"), bare("P-256"), jwk("b"))
    assert await accepts(verifier, signed(PAYLOAD, "a", kid="elsewhere"))
    assert await accepts(verifier, signed(PAYLOAD, "P-256", "ES256", kid="elsewhere"))
    assert not await accepts(verifier, signed(PAYLOAD, "b", kid="elsewhere"))  # this key has a name, and another one
    assert not await accepts(verifier, signed(PAYLOAD, "a", kid="b"))  # the set has a key of this name


async def test_two_keys_with_one_kid_are_both_tried(path: Path) -> None:
    verifier = verifier_of(path, jwk("a", kid="k"), jwk("b", kid="k"), bare("P-256", kid="k"))
    assert await accepts(verifier, signed(PAYLOAD, "a", kid="k"))
    assert await accepts(verifier, signed(PAYLOAD, "b", kid="k"))
    assert await accepts(verifier, signed(PAYLOAD, "P-256", "ES256", kid="k"))
    assert not await accepts(verifier, signed(PAYLOAD, "c", kid="k"))


@pytest.mark.parametrize("kid", [..., "unknown"])
async def test_new_key_without_kid_is_noticed_in_the_file_and_at_a_server(path: Path, kid: object) -> None:
    clock, new = Clock(), signed(PAYLOAD, "b", kid=kid)
    from_file = verifier_of(path, bare("a"), clock=clock)
    assert not await accepts(from_file, new)
    replace_set(path, bare("a"), bare("b"))
    assert await accepts(from_file, new)
    async with key_server(key_set(bare("a"))) as server:
        keys = VerificationKeys(UrlSource(server.url), clock=clock)
        by_url = TokenVerifier(AuthSettings(server.url, ISSUER), keys, now=clock)
        assert not await accepts(by_url, new)
        server.body = key_set(bare("b"))
        assert not await accepts(by_url, new)  # a bad signature asks the server no more often than an unknown `kid`
        assert server.asked == 1
        clock.time += URL_RETRY_S
        assert await accepts(by_url, new)
        server.status = 500
        clock.time += URL_RETRY_S
        with pytest.raises(KeysUnavailable):  # the server may have the key that signed this
            await by_url.verify(signed(PAYLOAD, "c", kid=kid))
        await keys.close()


async def test_replaced_key_without_kid_invalidates_cached_tokens(path: Path) -> None:
    clock = Clock()
    verifier, text = verifier_of(path, bare("P-256"), clock=clock), signed(PAYLOAD, "P-256", "ES256", kid=...)
    assert await accepts(verifier, text)
    replace_set(path, bare("P-256:second"))
    clock.time += FILE_MAX_AGE_S
    assert not await accepts(verifier, text)


def test_set_of_more_entries_than_can_be_tried_is_refused() -> None:
    assert len(parse_keys(key_set(*[bare("a")] * KEYS_MAX)).keys) == KEYS_MAX
    for entry in (bare("a"), {}):
        with pytest.raises(InvalidKeys, match=f"{KEYS_MAX + 1} entries"):
            parse_keys(key_set(*[entry] * (KEYS_MAX + 1)))


async def test_other_requests_go_on_while_many_keys_are_tried(path: Path) -> None:
    verifier, turns = verifier_of(path, *[bare(f"P-384:{number}") for number in range(8)]), 0
    loop = asyncio.get_running_loop()

    def other_request() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(other_request)

    loop.call_soon(other_request)
    assert not await accepts(verifier, signed(PAYLOAD, "P-384:none", "ES384", kid=...))
    assert turns >= 8
