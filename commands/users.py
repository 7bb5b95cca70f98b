"""User data: the profile as readers get it, and the changes that services may make to it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

# What identity providers put into `sub`: auth0|5f7c, 001234.ab.56, an e-mail address, a DID. A path may hold all of it.
ID_PATTERN: Final = r"^[0-9A-Za-z_-][0-9A-Za-z._:@|~+=-]{0,127}$"
ID_MAX: Final = 128
ID_IN_WORDS: Final = "1 to 128 of 0-9 A-Z a-z . _ : @ | ~ + = -, the first a letter, digit, _ or -, and not me"
# In Python a bare $ would accept a line break at the end.
LOGIN_PATTERN: Final = r"^[0-9A-Za-z_-]{1,64}$(?!\n)"
LOGIN_MAX: Final = 64

LOGIN_IN_WORDS: Final = "1 to 64 of 0-9 A-Z a-z _ -"
# A path that ends with one of these means something else: the caller, or the streams that the caller follows.
TAKEN_BY_ROUTES: Final = frozenset(("me", "followed"))

# Shown in a line, or put into a link: no control characters, which include line breaks, and no scripts.
NAME_PATTERN: Final = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$(?!\n)"
URL_PATTERN: Final = r"^([Hh][Tt][Tt][Pp][Ss]?://[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+)?$(?!\n)"

_ID: Final = re.compile(ID_PATTERN)
_LOGIN: Final = re.compile(LOGIN_PATTERN)

# The two lists of a user: the users they follow, and their followers.
Side = Literal["following", "followers"]

_T = TypeVar("_T")
Login = Annotated[str, Meta(pattern=LOGIN_PATTERN, description="unique without regard to case")]
ShortText = Annotated[str, Meta(max_length=256)]
LongText = Annotated[str, Meta(max_length=4096)]
Email = Annotated[str, Meta(max_length=256, pattern=NAME_PATTERN)]
Url = Annotated[str, Meta(max_length=2048, pattern=URL_PATTERN, description="http or https, or the empty text")]
Language = Annotated[str, Meta(max_length=35, description="a BCP 47 tag")]
NonNegativeInt = Annotated[int, Meta(ge=0, le=2_147_483_647)]


class Broadcast(msgspec.Struct, frozen=True, omit_defaults=True):
    """A running broadcast. The directory sets ``id`` and ``started_at`` (us since 1970)."""

    id: int = 0
    started_at: int = 0
    game: str | None = None
    title: str | None = None
    viewers: int = 0
    language: str | None = None
    average_fps: float = 0.0
    delay: int = 0
    video_height: int = 0
    is_playlist: bool = False
    preview: str | None = None


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user as readers get it; times in us since 1970. An erased user keeps only number, id and times."""

    number: int
    id: str
    login: str
    display_name: str
    created_at: int
    updated_at: int
    erased: bool = False
    email: str | None = None
    email_notifications: bool = False
    push_notifications: bool = False
    avatar_url: str | None = None
    bio: str | None = None
    is_available: bool = False
    partner: bool = False
    mature: bool | None = None
    status: str | None = None
    broadcaster_language: str | None = None
    game: str | None = None
    delay: int | None = None
    language: str | None = None
    banner: str | None = None
    video_banner: str | None = None
    background: str | None = None
    profile_banner: str | None = None
    profile_banner_background_color: str | None = None
    url: str | None = None
    views: int = 0
    broadcast: Broadcast | None = None
    last_broadcast_at: int | None = None


def blank(number: int) -> Profile:
    """Return the profile shown for a number that has no user's data: the user is erased, or not in the directory."""
    return Profile(number, "", "", "", 0, 0, erased=True)


class UserChanges(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Changes to a user by a service: fields left out stay as they are, and null clears a field that may be null."""

    username: Login | UnsetType = UNSET
    display_name: Annotated[str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN)] | UnsetType = UNSET
    email: Email | UnsetType | None = UNSET
    email_notifications: bool | UnsetType = UNSET
    push_notifications: bool | UnsetType = UNSET
    avatar_url: Url | UnsetType | None = UNSET
    bio: LongText | UnsetType | None = UNSET
    is_available: bool | UnsetType = UNSET
    partner: bool | UnsetType = UNSET
    mature: bool | UnsetType | None = UNSET
    status: LongText | UnsetType | None = UNSET
    broadcaster_language: Language | UnsetType | None = UNSET
    game: ShortText | UnsetType | None = UNSET
    delay: NonNegativeInt | UnsetType | None = UNSET
    language: Language | UnsetType | None = UNSET
    banner: Url | UnsetType | None = UNSET
    video_banner: Url | UnsetType | None = UNSET
    background: Url | UnsetType | None = UNSET
    profile_banner: Url | UnsetType | None = UNSET
    profile_banner_background_color: ShortText | UnsetType | None = UNSET
    url: Url | UnsetType | None = UNSET
    views: Annotated[int, Meta(ge=0, le=2**53)] | UnsetType = UNSET

    def profile(self) -> dict[str, Any]:
        """Return the given fields of the ``profile`` column: all but the two that have columns of their own."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if name not in {"username", "display_name"}}


class BroadcastChanges(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The state of a live channel by a service. It replaces all of the one before: a field that is left out is null, 0
    or false."""

    game: ShortText | None = None
    title: LongText | None = None
    viewers: NonNegativeInt = 0
    language: Language | None = None
    average_fps: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    delay: NonNegativeInt = 0
    video_height: NonNegativeInt = 0
    is_playlist: bool = False
    preview: Url | None = None


def given(value: _T | UnsetType) -> _T | None:
    """Return the value, or None when it was left out."""
    return None if isinstance(value, UnsetType) else value


def is_user_id(text: str) -> bool:
    """Return whether a text can be a user's id."""
    return text != "me" and _ID.fullmatch(text) is not None


def is_login(text: str) -> bool:
    """Return whether a text can be a login, in upper or lower case. No route may have taken a new one."""
    return _LOGIN.fullmatch(text) is not None


def is_new_login(text: str) -> bool:
    """Return whether a user may get this login."""
    return is_login(text) and text.lower() not in TAKEN_BY_ROUTES


def placeholder(number: int) -> str:
    """Return what stands for the id and the login of a user who has none any more: no user can have it."""
    return f"~erased-{number}"
