"""Bearer tokens (JWT): verified, and cached until they expire; no HTTP framework here."""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import jwt

from api.auth.claims import Caller, Role, caller_of, check_origin, read_claims
from api.auth.jwks import VerificationKeys
from api.auth.key_set import ALGORITHMS, PublicKey
from api.auth.key_sources import key_source_of
from commands.bounded_cache import BoundedCache
from commands.cache_budget import DEFAULT_BUDGET, CacheBudget
from commands.errors import SettingsError, Unauthenticated
from commands.settings import number_from_env, setting

__all__ = ["AuthSettings", "Caller", "Role", "TokenVerifier", "token_from_header"]

TOKEN_LENGTH_MAX = 8192  # characters: what proxies accept in one header, and a bound on the work for any caller

logger: Final = logging.getLogger(__name__)

# Clocks under NTP differ by far less; a larger leeway only accepts expired tokens for longer.
LEEWAY_S: Final = 30
LEEWAY_MAX_S: Final = 300

# A caller with its place in the cache, and a text beside its characters.
_CALLER_BYTES: Final = 650
_TEXT_BYTES: Final = 50

_JWS: Final = jwt.PyJWS(algorithms=ALGORITHMS)  # no other is registered, so `none` and HS256 cannot be chosen


@dataclass(frozen=True)
class AuthSettings:
    """Which tokens are accepted. Each of `user_roles` means "user"."""

    jwks: str  # a file's path or an http(s) URL
    issuer: str
    audience: str | None = None
    production: bool = False
    user_roles: frozenset[str] = frozenset({"user"})
    leeway_s: int = LEEWAY_S

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "AuthSettings":
        """Read FOLLOWS_JWKS, _ISSUER, _AUDIENCE, _ENV, _USER_ROLES and _TOKEN_LEEWAY_S. Raises `SettingsError`."""
        for name in ("FOLLOWS_JWKS", "FOLLOWS_ISSUER"):
            if not setting(name, env):
                raise SettingsError(f"{name} is not set: without it no token can be checked (`follows up` sets it)")
        return cls(
            jwks=setting("FOLLOWS_JWKS", env),
            issuer=setting("FOLLOWS_ISSUER", env),
            audience=setting("FOLLOWS_AUDIENCE", env) or None,
            # A forgotten FOLLOWS_ENV must not admit development keys.
            production=setting("FOLLOWS_ENV", env).strip().lower() != "development",
            user_roles=frozenset(re.findall(r"[^\s,]+", setting("FOLLOWS_USER_ROLES", env))) | {"user"},
            leeway_s=number_from_env(
                "FOLLOWS_TOKEN_LEEWAY_S", LEEWAY_S, LEEWAY_MAX_S, f"0 to {LEEWAY_MAX_S} seconds", env
            ),
        )


class TokenVerifier:
    """Turns tokens into callers; caches verified ones until they expire or the keys change."""

    def __init__(
        self,
        settings: AuthSettings,
        keys: VerificationKeys | None = None,
        *,
        now: Callable[[], float] = time.time,
        budget: CacheBudget = DEFAULT_BUDGET,
    ) -> None:
        self._settings = settings
        self.keys = keys or VerificationKeys(key_source_of(settings.jwks), production=settings.production)
        self._now = now
        self._keys_version = self.keys.version
        # By digest, so that no token stays in memory.
        self.verified: BoundedCache[bytes, Caller] = BoundedCache(budget.share("tokens"), _size)

    async def start(self) -> None:
        """Read the keys before the first request. Raises `SettingsError`; see `VerificationKeys.start`."""
        if self._settings.audience is None:
            logger.warning("FOLLOWS_AUDIENCE is not set: tokens that the issuer made for other services are taken too")
        await self.keys.start()

    async def close(self) -> None:
        """Close the source of the keys."""
        await self.keys.close()

    def cached(self, token: bytes) -> Caller | None:
        """Return the caller of a token verified before, without waiting; None when `verify` must be called."""
        if self.keys.is_due() or self._keys_version != self.keys.version:
            return None
        caller = self.verified.entries.get(hashlib.sha256(token).digest())
        if caller is None or self._now() >= caller.expires_at:
            return None
        self.verified.hits += 1
        return caller

    async def verify(self, token: str) -> Caller:
        """Return the caller that `token` identifies. Raises `Unauthenticated`, `KeysUnavailable`."""
        if len(token) > TOKEN_LENGTH_MAX:
            raise Unauthenticated(f"the token is longer than {TOKEN_LENGTH_MAX} characters")
        if not token.isascii():
            raise Unauthenticated("the token cannot be read")
        await self.keys.refresh()
        if self._keys_version != self.keys.version:
            self.verified.clear()
            self._keys_version = self.keys.version
        digest = hashlib.sha256(token.encode()).digest()
        caller = self.verified.touch(digest)
        if caller is None:
            self.verified.misses += 1
            caller = self._caller(await self._payload(token))
            self.verified.put(digest, caller)
        elif self._now() >= caller.expires_at + self._settings.leeway_s:
            self.verified.pop(digest)
            raise Unauthenticated("the token has expired")
        return caller

    async def _payload(self, token: str) -> bytes:
        """Return the token's claims as JSON, after its signature was verified."""
        try:
            header = _JWS.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Unauthenticated("the token cannot be read") from None
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise Unauthenticated(f"the token is not signed with one of {', '.join(ALGORITHMS)}")
        payload = b""

        def fits(key: PublicKey) -> bool:
            nonlocal payload
            try:
                payload = _JWS.decode(token, key, algorithms=[algorithm])
            except jwt.PyJWTError:
                return False
            return True

        if await self.keys.find(algorithm, header.get("kid"), fits) is None:
            raise Unauthenticated("the token is signed with a key that is not known here, or its signature is wrong")
        return payload

    def _caller(self, payload: bytes) -> Caller:
        claims = read_claims(payload)
        check_origin(claims, self._settings.issuer, self._settings.audience)
        return caller_of(claims, self._now(), self._settings.user_roles, self._settings.leeway_s)


def _size(_: bytes, caller: Caller) -> int:
    """Return what a verified token takes in memory, about, in bytes."""
    texts = (caller.id, caller.login, caller.display_name, caller.avatar_url, caller.email, *caller.scopes)
    return _CALLER_BYTES + sum([_TEXT_BYTES + len(text) for text in texts if text is not None])


def token_from_header(header: str, schemes: tuple[str, ...] = ("Bearer",)) -> str:
    """Return the token in an Authorization header of one of `schemes` (any case). Raises `Unauthenticated`."""
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() not in {known.lower() for known in schemes}:
        raise Unauthenticated(f"the Authorization header must be: {schemes[0]} <token>")
    token = token.strip()
    if not token or " " in token:
        raise Unauthenticated("the Authorization header holds no token")
    return token
