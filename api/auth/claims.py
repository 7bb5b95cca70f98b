"""The claims of a verified token: read, checked, and turned into a `Caller`."""

import json
import re
from collections.abc import Set
from typing import Final, Literal, cast

import msgspec

from commands.errors import Unauthenticated
from commands.users import NAME_PATTERN, URL_PATTERN, is_user_id

TIME_MAX = 253_402_300_799  # the year 9999; a later time cannot be written as a date
PROFILE_TEXT_MAX = 2048  # characters; a longer claim is not a name or an address of a picture

_NAME: Final = re.compile(NAME_PATTERN)
_URL: Final = re.compile(URL_PATTERN)
_HALF: Final = re.compile("[\ud800-\udfff]")

Role = Literal["user", "guest", "service", "admin"]


class Caller(msgspec.Struct, frozen=True):
    """The caller that a verified token identifies; times in epoch seconds.

    The optional texts come from the token. They register a user whom the directory does not know yet.
    """

    id: str
    role: Role
    scopes: frozenset[str]
    issued_at: int  # the token's `iat`; without one, when the token was first verified
    expires_at: int
    login: str | None = None
    display_name: str | None = None
    avatar_url: str | None = None
    email: str | None = None

    def __repr__(self) -> str:
        """Return id and role only: log lines must not contain names and addresses of persons."""
        return f"Caller({self.id!r}, {self.role!r})"


class Claims(msgspec.Struct):
    """The claims that are read. Those of type `object` are ignored where their type does not fit."""

    sub: str
    exp: int | float
    iss: str
    iat: int | float | None = None
    nbf: int | float | None = None
    aud: str | list[str] | None = None
    role: str | None = None
    scope: str | list[str] | None = None
    username: object = None
    preferred_username: object = None
    login: object = None
    name: object = None
    display_name: object = None
    picture: object = None
    avatar_url: object = None
    email: object = None


def read_claims(payload: bytes) -> Claims:
    """Return the claims in a signed payload. Raises `Unauthenticated` naming the claim that cannot be read."""
    try:
        # A name cut within an emoji, as JavaScript does, holds half of a pair: msgspec refuses the whole payload then.
        found = json.loads(payload.decode(errors="surrogateescape"))
        return msgspec.convert({name: found[name] for name in Claims.__struct_fields__ if name in found}, Claims)
    except (ValueError, TypeError, RecursionError) as error:
        raise Unauthenticated(f"the token's claims cannot be read: {error}") from None


def caller_of(claims: Claims, now: float, user_roles: Set[str], leeway_s: int) -> Caller:
    """Return the caller that the claims identify at `now` (epoch seconds). Raises `Unauthenticated`.

    The issuer's clock may differ by `leeway_s`.
    """
    _check_times(claims, now, leeway_s)
    if not is_user_id(claims.sub):
        raise Unauthenticated("the token's sub is not a user id")
    return Caller(
        id=claims.sub,
        role=_role(claims.role, user_roles),
        scopes=_scopes(claims.scope),
        issued_at=int(now if claims.iat is None else claims.iat),
        expires_at=int(claims.exp),
        login=_text(_NAME, claims.username, claims.preferred_username, claims.login),
        display_name=_text(_NAME, claims.name, claims.display_name),
        avatar_url=_text(_URL, claims.picture, claims.avatar_url),
        email=_text(_NAME, claims.email),
    )


def check_origin(claims: Claims, issuer: str, audience: str | None) -> None:
    """Raise `Unauthenticated` for another issuer's token and, if an audience is set, for another audience's."""
    if claims.iss != issuer:
        raise Unauthenticated("the token is from another issuer")
    given = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
    if audience is not None and audience not in given:
        raise Unauthenticated("the token is for another audience")


def _check_times(claims: Claims, now: float, leeway_s: int) -> None:
    for moment in (claims.exp, claims.iat, claims.nbf):
        if moment is not None and not 0 <= moment <= TIME_MAX:
            raise Unauthenticated("a time in the token is out of range")
    if now >= int(claims.exp) + leeway_s:
        raise Unauthenticated("the token has expired")
    if claims.nbf is not None and claims.nbf > now + leeway_s:
        raise Unauthenticated("the token is not valid yet")
    if claims.iat is not None and claims.iat > now + leeway_s:
        raise Unauthenticated("the token was issued in the future")
    if claims.iat is not None and claims.iat > claims.exp:
        raise Unauthenticated("the token expires before it was issued")


def _role(role: str | None, user_roles: Set[str]) -> Role:
    """Return the role. An unknown one is refused and not read as "user": it may mean "suspended"."""
    if role is None or role in user_roles:
        return "user"
    if role in ("guest", "service", "admin"):
        return cast(Role, role)
    raise Unauthenticated("the token's role is not known here")


def _scopes(scope: str | list[str] | None) -> frozenset[str]:
    return frozenset(scope.split() if isinstance(scope, str) else scope or ())


def _text(pattern: re.Pattern[str], *candidates: object) -> str | None:
    """Return the first candidate that is a text of this pattern and not blank."""
    for text in candidates:
        if not isinstance(text, str) or len(text) > PROFILE_TEXT_MAX or _HALF.search(text) is not None:
            continue
        if (fit := text.strip()) and pattern.search(fit):
            return fit
    return None
