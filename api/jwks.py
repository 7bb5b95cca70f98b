"""The public keys that tokens are checked with, by `kid`, kept current from their source."""

import asyncio
import logging
import math
import time
from collections.abc import Callable

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from api.key_sources import BadKeys, Source
from commands.errors import KeysUnavailable, SettingsError

logger = logging.getLogger(__name__)

KEY_BITS_MIN = 2048  # RFC 7518 3.3 asks for this much for RS256


class DevelopmentKeys(BadKeys):
    """The set is marked as made by `follows up`, and this is production."""


class Jwk(msgspec.Struct):
    """One entry of a key set (RFC 7517), as far as we read it."""

    kty: str
    kid: str | None = None
    use: str = "sig"
    alg: str = "RS256"
    key_ops: tuple[str, ...] = ("verify",)
    n: str = ""
    e: str = ""


class JwkSet(msgspec.Struct):
    """A key set whose entries are read one by one, so that an odd one does not hide its neighbours."""

    keys: list[msgspec.Raw]
    follows_development: bool = False


KeysByKid = dict[str | None, RSAPublicKey]


def parse_keys(raw: bytes, *, production: bool = False) -> KeysByKid:
    """`kid` -> key for every usable entry of a key set; the first of two with one `kid` counts.

    An empty set is taken at its word: all keys are withdrawn. Raises `BadKeys`.
    """
    try:
        found = msgspec.json.decode(raw, type=JwkSet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadKeys(f"not a JSON key set ({error})") from None
    if found.follows_development and production:
        raise DevelopmentKeys("the key set is a development one, and FOLLOWS_ENV is not development")
    if found.follows_development:
        logger.warning("tokens are checked with a development key: whoever can read its folder can sign")
    keys: KeysByKid = {}
    for number, entry in enumerate(found.keys):
        try:
            jwk = msgspec.json.decode(entry, type=Jwk)
            keys.setdefault(jwk.kid, _public_key(jwk))
        except (msgspec.DecodeError, UnicodeDecodeError, BadKeys) as error:
            logger.warning("key %d of the set is left out: %s", number, error)
    return keys


def _public_key(jwk: Jwk) -> RSAPublicKey:
    """The RSA key of one entry, or `BadKeys` when it is no RS256 verification key of enough bits."""
    if jwk.kty != "RSA" or jwk.alg != "RS256" or jwk.use != "sig" or "verify" not in jwk.key_ops:
        raise BadKeys("it is not an RSA key for checking RS256 signatures")
    try:
        # Only n and e: a private key published by mistake must not become one here.
        key = RSAAlgorithm.from_jwk({"kty": "RSA", "n": jwk.n, "e": jwk.e})
    except (InvalidKeyError, ValueError):
        raise BadKeys("its n and e are no RSA key") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < KEY_BITS_MIN:
        raise BadKeys(f"it is shorter than {KEY_BITS_MIN} bits")
    return key


class Keys:
    """The keys in force. `generation` rises with every change, so that answers kept elsewhere can go.

    One read at a time: whoever needs one while it runs waits for that one. A read that fails leaves the
    keys as they were.
    """

    def __init__(
        self, source: Source, *, production: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.generation = 0
        self._source = source
        self._production = production
        self._clock = clock
        self._keys: KeysByKid = {}
        self._raw: bytes | None = None
        self._failure: Exception | None = None
        self._reading: asyncio.Task[None] | None = None
        self._tried_at = self._due_at = -math.inf

    async def start(self) -> None:
        """Read the keys once, before the first request.

        `SettingsError` for a file that cannot be used and for development keys in production; a server
        that is down is only logged, since it may come back.
        """
        await self._read_once()
        if self._failure and (self._source.local or isinstance(self._failure, DevelopmentKeys)):
            raise SettingsError(f"FOLLOWS_JWKS cannot be used: {self._failure}")

    def is_due(self) -> bool:
        """Whether it is time to read again."""
        return self._clock() >= self._due_at

    async def current(self) -> None:
        """Read again when it is time. A URL is read behind the requests, unless there are no keys yet."""
        if not self.is_due():
            return
        reading = self._read_once()
        if self._source.local or not self._keys:
            await asyncio.shield(reading)  # a client who hangs up does not end it for the others

    async def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key named `kid`, after a read where it is unknown; None when it still is.

        No `kid` means the only key, where there is only one. Raises `KeysUnavailable` when nobody can
        say: there are no keys, or the source is down and could have this one.
        """
        key = self._pick(kid)
        if key is None and (self._is_reading() or self._clock() >= self._tried_at + self._source.retry_s):
            await asyncio.shield(self._read_once())
            key = self._pick(kid)
        if key is None and (self._failure or not self._keys):
            raise KeysUnavailable
        return key

    async def close(self) -> None:
        """End a read under way and the source's connections."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._source.close()

    def _pick(self, kid: str | None) -> RSAPublicKey | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if kid is not None else None

    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def _read_once(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        self._tried_at = self._clock()
        try:
            raw = await self._source.read()
            if raw is not None:
                self._take(raw)
        except (OSError, httpx.HTTPError, httpx.InvalidURL, BadKeys) as error:
            self._fail(error)
        # A source that failed is asked again sooner; a file's retry_s of 0 is for unknown `kid`s only.
        soon_s = self._source.retry_s or self._source.max_age_s
        self._due_at = self._clock() + (soon_s if self._failure else self._source.max_age_s)

    def _take(self, raw: bytes) -> None:
        if raw != self._raw:
            self._keys = parse_keys(raw, production=self._production)
            self._raw = raw
            self.generation += 1
            logger.info("keys read: %d", len(self._keys))
        self._failure = None

    def _fail(self, error: Exception) -> None:
        if self._failure is None or str(error) != str(self._failure):  # once, not every second
            logger.error("keys not read, %d stay in force: %s", len(self._keys), error or type(error).__name__)
        self._failure = error
