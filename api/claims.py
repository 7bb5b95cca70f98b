"""What a verified token says: its claims read and checked, and the `Caller` they make."""

import re
from collections.abc import Set
from typing import Literal, cast

import msgspec

from commands.errors import Unauthenticated

LEEWAY_S = 10  # clocks of two servers under NTP differ by far less; more would only let dead tokens live
TIME_MAX = 253_402_300_799  # the year 9999: above it a claim is no time, and cannot be written as a date
PROFILE_TEXT_MAX = 2048  # characters; a longer claim is no name and no address of a picture

USER_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

Role = Literal["user", "guest", "service", "admin"]


class Caller(msgspec.Struct, frozen=True):
    """Who a verified token speaks for; times in epoch seconds.

    The optional texts are the token's word about a user whom the directory may not know yet.
    """

    id: str
    role: Role
    scopes: frozenset[str]
    issued_at: int  # the token's `iat`, or when it was first seen
    expires_at: int
    login: str | None = None
    display_name: str | None = None
    avatar_url: str | None = None
    email: str | None = None

    def __repr__(self) -> str:
        """Id and role only: a caller in a log line must not carry a person's name and address there."""
        return f"Caller({self.id!r}, {self.role!r})"


class Claims(msgspec.Struct):
    """A token's claims as far as we read them; those typed `object` are used where they fit, else left."""

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
    """The claims in a signed payload. Raises `Unauthenticated` naming the claim that does not fit."""
    try:
        return msgspec.json.decode(payload, type=Claims)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unauthenticated(f"the token's claims cannot be read: {error}") from None


def caller_of(claims: Claims, now: float, user_roles: Set[str]) -> Caller:
    """The caller that the claims make at `now`. Raises `Unauthenticated`."""
    _check_times(claims, now)
    if USER_ID.fullmatch(claims.sub) is None:
        raise Unauthenticated("the token's sub is not a user id")
    return Caller(
        id=claims.sub,
        role=_role(claims.role, user_roles),
        scopes=_scopes(claims.scope),
        issued_at=int(now if claims.iat is None else claims.iat),
        expires_at=int(claims.exp),
        login=_text(claims.username, claims.preferred_username, claims.login),
        display_name=_text(claims.name, claims.display_name),
        avatar_url=_text(claims.picture, claims.avatar_url),
        email=_text(claims.email),
    )


def check_origin(claims: Claims, issuer: str, audience: str | None) -> None:
    """Refuse another issuer's token and, where an audience is set, another audience's."""
    if claims.iss != issuer:
        raise Unauthenticated("the token is from another issuer")
    given = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
    if audience is not None and audience not in given:
        raise Unauthenticated("the token is for another audience")


def _check_times(claims: Claims, now: float) -> None:
    for moment in (claims.exp, claims.iat, claims.nbf):
        if moment is not None and not 0 <= moment <= TIME_MAX:
            raise Unauthenticated("a time in the token is out of range")
    if now >= int(claims.exp) + LEEWAY_S:
        raise Unauthenticated("the token has expired")
    if claims.nbf is not None and claims.nbf > now + LEEWAY_S:
        raise Unauthenticated("the token is not valid yet")
    if claims.iat is not None and claims.iat > now + LEEWAY_S:
        raise Unauthenticated("the token was issued in the future")
    if claims.iat is not None and claims.iat > claims.exp:
        raise Unauthenticated("the token expires before it was issued")


def _role(role: str | None, user_roles: Set[str]) -> Role:
    """A role we do not know is refused, not read as "user": it may mean "suspended"."""
    if role is None or role in user_roles:
        return "user"
    if role in ("guest", "service", "admin"):
        return cast(Role, role)
    raise Unauthenticated("the token's role is not known here")


def _scopes(scope: str | list[str] | None) -> frozenset[str]:
    return frozenset(scope.split() if isinstance(scope, str) else scope or ())


def _text(*candidates: object) -> str | None:
    """The first candidate that is a text with something in it."""
    for text in candidates:
        if isinstance(text, str) and text.strip() and len(text) <= PROFILE_TEXT_MAX:
            return text.strip()
    return None
