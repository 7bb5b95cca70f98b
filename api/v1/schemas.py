"""The JSON of /v1, to the last field."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from api.timestamps import WireTime, time_of, wire_time
from commands.users import Broadcast, Profile, Side, placeholder
from queries.follows import FollowState, RawPage
from queries.profile_cache import CachedProfile


class FollowMade(msgspec.Struct, frozen=True):
    """A new follow."""

    follower_id: str
    followed_id: str
    created_at: WireTime


class FollowStatus(msgspec.Struct, frozen=True):
    """Whether the caller follows the user, and since when."""

    is_following: bool
    followed_at: WireTime | None


class Follower(msgspec.Struct, frozen=True):
    """A row of a followers list."""

    id: str
    display_name: str
    avatar_url: str | None
    followed_at: WireTime


class Followed(msgspec.Struct, frozen=True):
    """A row of a following list."""

    id: str
    display_name: str
    username: str
    avatar_url: str | None
    is_available: bool
    followed_at: WireTime


class Pagination(msgspec.Struct, frozen=True):
    """The page's place in the list; ``per_page`` is what was served, not what was asked for."""

    page: int
    per_page: int
    total: int
    total_pages: int


class FollowerList(msgspec.Struct, frozen=True):
    """A page of followers."""

    success: bool
    data: list[Follower]
    pagination: Pagination


class FollowingList(msgspec.Struct, frozen=True):
    """A page of followed users."""

    success: bool
    data: list[Followed]
    pagination: Pagination


class BroadcastShown(msgspec.Struct, frozen=True):
    """A running broadcast."""

    started_at: WireTime
    game: str | None
    title: str | None
    viewers: int
    language: str | None


class User(msgspec.Struct, frozen=True):
    """A user's public profile with counts; these are null only after a PUT that the views do not show yet."""

    id: str
    username: str
    display_name: str
    avatar_url: str | None
    bio: str | None
    is_available: bool
    followers: int | None
    following: int | None
    created_at: WireTime
    updated_at: WireTime
    broadcast: BroadcastShown | None


def follow_status_of(found: FollowState) -> FollowStatus:
    """Return whether a follow exists, and since when."""
    return FollowStatus(found.row is not None, None if found.row is None else wire_time(found.row.created_at))


def follower(profile: Profile, at: str) -> Follower:
    """Return a row of a followers list; for an erased user, whose follows are about to end, a placeholder."""
    return Follower(shown_id(profile), profile.display_name, profile.avatar_url, at)


def followed(profile: Profile, at: str) -> Followed:
    """Return a row of a following list; like ``follower``."""
    return Followed(
        shown_id(profile),
        profile.display_name,
        profile.login,
        profile.avatar_url,
        profile.is_available,
        at,
    )


def listing(side: Side, found: RawPage, cached_profiles: Sequence[CachedProfile], pagination: Pagination) -> bytes:
    """Return the JSON of a ``FollowerList`` or ``FollowingList``. What is the same in all lists is encoded once per
    profile, not once per row."""
    kept = _KEPT[side]
    lines = [
        f'{kept(cached) or _line_start(side, cached)}{time_of(score)}"}}'
        for cached, score in zip(cached_profiles, found.scores, strict=True)
    ]
    ended = msgspec.json.encode(pagination).decode()
    return f'{{"success":true,"data":[{",".join(lines)}],"pagination":{ended}}}'.encode()


_KEPT: Final[dict[Side, Callable[[CachedProfile], str | None]]] = {
    "followers": attrgetter("followers"),
    "following": attrgetter("following"),
}


def _line_start(side: Side, cached: CachedProfile) -> str:
    """Return a row up to its time, which comes last."""
    line = (follower if side == "followers" else followed)(cached.profile, "")
    begun = msgspec.json.encode(line).decode().removesuffix('"}')
    cached.keep(side, begun, len(begun))
    return begun


def shown_id(profile: Profile) -> str:
    """Return the user's id; for an erased user one that no user has."""
    return placeholder(profile.number) if profile.erased else profile.id


def user(profile: Profile, followers: int | None, following: int | None) -> User:
    """Return the public profile, without e-mail and settings."""
    return User(
        id=profile.id,
        username=profile.login,
        display_name=profile.display_name,
        avatar_url=profile.avatar_url,
        bio=profile.bio,
        is_available=profile.is_available,
        followers=followers,
        following=following,
        created_at=wire_time(profile.created_at),
        updated_at=wire_time(profile.updated_at),
        broadcast=_broadcast(profile.broadcast),
    )


def _broadcast(broadcast: Broadcast | None) -> BroadcastShown | None:
    if broadcast is None:
        return None
    return BroadcastShown(
        wire_time(broadcast.started_at), broadcast.game, broadcast.title, broadcast.viewers, broadcast.language
    )
