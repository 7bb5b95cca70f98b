"""Who is calling: bearer tokens (JWT, RS256) checked and remembered; no HTTP framework here."""

import hashlib
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import jwt

from api.claims import LEEWAY_S, USER_ID, Caller, Role, caller_of, check_origin, read_claims
from api.jwks import Keys
from api.key_sources import source_of
from commands.errors import SettingsError, Unauthenticated

__all__ = ["USER_ID", "AuthSettings", "Caller", "Role", "Verifier", "credentials"]

TOKEN_LENGTH_MAX = 8192  # characters; what proxies let through in one header, and the bound on unchecked work
VERIFIED_MAX = 10_000  # tokens remembered per process: some 15 MB, and more callers than one serves a minute

_JWS = jwt.PyJWS(algorithms=["RS256"])  # the only algorithm it knows, so `none` and HS256 are not even names


@dataclass(frozen=True)
class AuthSettings:
    """Which tokens are believed: `user_roles` are the roles that mean "user"."""

    jwks: str  # a file's path or an http(s) URL
    issuer: str
    audience: str | None = None
    production: bool = False
    user_roles: frozenset[str] = frozenset({"user"})

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "AuthSettings":
        """From FOLLOWS_JWKS, _ISSUER, _AUDIENCE, _ENV and _USER_ROLES. Raises `SettingsError`."""
        for name in ("FOLLOWS_JWKS", "FOLLOWS_ISSUER"):
            if not env.get(name):
                raise SettingsError(f"{name} is not set: without it no token can be checked (`follows up` sets it)")
        return cls(
            jwks=env["FOLLOWS_JWKS"],
            issuer=env["FOLLOWS_ISSUER"],
            audience=env.get("FOLLOWS_AUDIENCE") or None,
            # Whoever has not said that this is development may have forgotten to say that it is not.
            production=env.get("FOLLOWS_ENV", "").strip().lower() != "development",
            user_roles=frozenset(re.findall(r"[^\s,]+", env.get("FOLLOWS_USER_ROLES", ""))) | {"user"},
        )


class Verifier:
    """Turns tokens into callers, and remembers the good ones until they expire or the keys change."""

    def __init__(
        self, settings: AuthSettings, keys: Keys | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._keys = keys or Keys(source_of(settings.jwks), production=settings.production)
        self._now = now
        self._generation = self._keys.generation
        self._verified: OrderedDict[bytes, Caller] = OrderedDict()  # by digest: no token stays in memory

    async def start(self) -> None:
        """Read the keys before the first request. Raises `SettingsError`; see `Keys.start`."""
        await self._keys.start()

    async def close(self) -> None:
        """End what the keys' source holds open."""
        await self._keys.close()

    def remembered(self, token: bytes) -> Caller | None:
        """The caller that `token` spoke for before, at once; None when `verify` has to look at it."""
        if self._keys.is_due() or self._generation != self._keys.generation:
            return None
        caller = self._verified.get(hashlib.sha256(token).digest())
        return caller if caller is not None and self._now() < caller.expires_at else None

    async def verify(self, token: str) -> Caller:
        """The caller that `token` speaks for. Raises `Unauthenticated`, `KeysUnavailable`."""
        if len(token) > TOKEN_LENGTH_MAX:
            raise Unauthenticated(f"the token is longer than {TOKEN_LENGTH_MAX} characters")
        if not token.isascii():
            raise Unauthenticated("the token cannot be read")
        await self._keys.current()
        if self._generation != self._keys.generation:
            self._verified.clear()
            self._generation = self._keys.generation
        digest = hashlib.sha256(token.encode()).digest()
        caller = self._verified.get(digest)
        if caller is None:
            caller = self._caller(await self._payload(token))
            self._remember(digest, caller)
        elif self._now() >= caller.expires_at + LEEWAY_S:
            del self._verified[digest]
            raise Unauthenticated("the token has expired")
        else:
            self._verified.move_to_end(digest)
        return caller

    def _remember(self, digest: bytes, caller: Caller) -> None:
        self._verified[digest] = caller
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)  # the one that had to be looked at longest ago

    async def _payload(self, token: str) -> bytes:
        """The token's claims as JSON, its signature checked."""
        try:
            header = _JWS.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Unauthenticated("the token cannot be read") from None
        if header.get("alg") != "RS256":
            raise Unauthenticated("the token is not signed with RS256")
        key = await self._keys.find(header.get("kid"))
        if key is None:
            raise Unauthenticated("the token is signed with a key that is not known here")
        try:
            return cast(bytes, _JWS.decode(token, key, algorithms=["RS256"]))
        except jwt.PyJWTError:
            raise Unauthenticated("the token's signature does not fit") from None

    def _caller(self, payload: bytes) -> Caller:
        claims = read_claims(payload)
        check_origin(claims, self._settings.issuer, self._settings.audience)
        return caller_of(claims, self._now(), self._settings.user_roles)


def credentials(header: str, schemes: tuple[str, ...] = ("Bearer",)) -> str:
    """The token in an Authorization header of one of `schemes` (any case). Raises `Unauthenticated`."""
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() not in {known.lower() for known in schemes}:
        raise Unauthenticated(f"the Authorization header must be: {schemes[0]} <token>")
    token = token.strip()
    if not token or " " in token:
        raise Unauthenticated("the Authorization header holds no token")
    return token
