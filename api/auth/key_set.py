"""Key sets (RFC 7517): which entries can verify tokens, and with which algorithms; reading them again is in `jwks`."""

import logging
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from api.auth.key_sources import InvalidKeys

logger: Final = logging.getLogger(__name__)

# The algorithms of each type of key, by `kty` and `crv`. Secrets (`oct`) are not a type here, so HS256 has no key.
ALGORITHMS_OF: Final = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS: Final = tuple(algorithm for algorithms in ALGORITHMS_OF.values() for algorithm in algorithms)
RSA_BITS_MIN: Final = 2048  # RFC 7518 3.3 asks for this much
RSA_BITS_MAX: Final = 8192  # a check with a longer key takes a millisecond
REASONS_MAX: Final = 3  # why entries cannot be used, in one line
KEYS_MAX: Final = 100  # a token without `kid` is tried against all; providers publish some ten

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class DevelopmentKeys(InvalidKeys):
    """A key set that `follows up` made was found in production."""


class Jwk(msgspec.Struct):
    """One entry of a key set: the fields that are read. Private ones are not, should they have been published."""

    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    key_ops: tuple[str, ...] | None = None
    n: str = ""
    e: str = ""
    crv: str | None = None
    x: str = ""
    y: str = ""


class JwkSet(msgspec.Struct):
    """A key set. Its entries are decoded one by one, so that an invalid one does not invalidate the others."""

    keys: list[msgspec.Raw]
    follows_development: bool = False


@dataclass(frozen=True)
class VerificationKey:
    """A public key, its `kid` if it has one, and the algorithms that it verifies."""

    kid: str | None
    algorithms: tuple[str, ...]
    public: PublicKey


@dataclass(frozen=True)
class KeySet:
    """The usable keys of a set, in its order. Several may have one `kid`, or none."""

    keys: tuple[VerificationKey, ...] = ()
    kids: frozenset[str | None] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kids", frozenset(key.kid for key in self.keys))

    def matching(self, algorithm: str, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys that a token with these headers may be signed with.

        Those of its `kid`. With a `kid` that the set does not have, those without one. Without a `kid`, all. Of these
        only the ones that verify the algorithm.
        """
        named = kid if kid in self.kids else None
        return tuple(
            key.public for key in self.keys if algorithm in key.algorithms and (kid is None or key.kid == named)
        )


def parse_keys(raw: bytes, *, production: bool = False) -> KeySet:
    """Return the usable entries of a key set; those that are not are logged.

    An empty set is valid: all keys are withdrawn. Raises `InvalidKeys`, also when nothing in a set can be used.
    """
    try:
        found = msgspec.json.decode(raw, type=JwkSet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidKeys(f"not a JSON key set ({error})") from None
    if len(found.keys) > KEYS_MAX:
        raise InvalidKeys(f"the key set has {len(found.keys)} entries, more than {KEYS_MAX}")
    if found.follows_development and production:
        raise DevelopmentKeys("the key set is a development one, and FOLLOWS_ENV is not development")
    usable, ignored = _sorted_out(found.keys)
    if ignored and not usable:
        raise InvalidKeys(f"none of its {len(ignored)} entries can be used ({'; '.join(ignored[:REASONS_MAX])})")
    for reason in ignored:
        logger.warning("a key of the key set is ignored: %s", reason)
    if found.follows_development:
        logger.info("tokens are verified with a development key: anyone with access to its folder can sign tokens")
    return KeySet(tuple(usable))


def _sorted_out(entries: list[msgspec.Raw]) -> tuple[list[VerificationKey], list[str]]:
    """Return the keys of the usable entries, and for each other entry why it is not used."""
    usable, ignored = list[VerificationKey](), list[str]()
    for number, entry in enumerate(entries):
        try:
            usable.append(_verification_key(msgspec.json.decode(entry, type=Jwk)))
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidKeys) as error:
            ignored.append(f"entry {number}: {error}")
    return usable, ignored


def _verification_key(jwk: Jwk) -> VerificationKey:
    """Return the key of an entry. Raises `InvalidKeys` for any key that cannot verify a token safely."""
    if jwk.use not in (None, "sig") or (jwk.key_ops is not None and "verify" not in jwk.key_ops):
        raise InvalidKeys("it is not for checking signatures")
    algorithms = ALGORITHMS_OF.get((jwk.kty, None if jwk.kty == "RSA" else jwk.crv), ())
    if jwk.alg is not None:
        algorithms = tuple(algorithm for algorithm in algorithms if algorithm == jwk.alg)
    if not algorithms:
        raise InvalidKeys(f"its type, curve and alg are not a key for one of {', '.join(ALGORITHMS)}")
    try:
        key = _public_key(jwk)
    except (InvalidKeyError, ValueError):
        raise InvalidKeys(f"its numbers are not a usable {jwk.kty} key") from None
    if isinstance(key, RSAPublicKey) and not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        raise InvalidKeys(f"its length is not {RSA_BITS_MIN} to {RSA_BITS_MAX} bits")
    return VerificationKey(jwk.kid, algorithms, key)


def _public_key(jwk: Jwk) -> PublicKey:
    """Return the key with an entry's numbers. Raises ValueError, InvalidKeyError."""
    key: object
    if jwk.kty == "EC":
        key = ECAlgorithm.from_jwk({"kty": "EC", "crv": jwk.crv, "x": jwk.x, "y": jwk.y})
    elif jwk.kty == "OKP":
        key = OKPAlgorithm.from_jwk({"kty": "OKP", "crv": jwk.crv, "x": jwk.x})
    else:
        key = RSAAlgorithm.from_jwk({"kty": "RSA", "n": jwk.n, "e": jwk.e})
    if not isinstance(key, PublicKey):
        raise InvalidKeyError("not a public key")
    return key
