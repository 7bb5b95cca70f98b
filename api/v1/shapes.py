"""The JSON of /v1, to the last field."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from api.times import followed_at, wire_time
from commands.users import Broadcast, Profile
from queries.cards import Card
from queries.follows import Entries, Side, Status

T = TypeVar("T")


class FollowMade(msgspec.Struct, frozen=True):
    """A follow that began."""

    follower_id: str
    followed_id: str
    created_at: str


class FollowStatus(msgspec.Struct, frozen=True):
    """Whether the caller follows the user, and since when."""

    is_following: bool
    followed_at: str | None


class Follower(msgspec.Struct, frozen=True):
    """One who follows."""

    id: str
    display_name: str
    avatar_url: str | None
    followed_at: str


class Followed(msgspec.Struct, frozen=True):
    """One who is followed."""

    id: str
    display_name: str
    username: str
    avatar_url: str | None
    is_available: bool
    followed_at: str


class Pagination(msgspec.Struct, frozen=True):
    """Where in the list the page is; ``per_page`` is what was served, not what was asked."""

    page: int
    per_page: int
    total: int
    total_pages: int


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list."""

    success: bool
    data: list[T]
    pagination: Pagination


class BroadcastShown(msgspec.Struct, frozen=True):
    """A running broadcast."""

    started_at: str
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
    created_at: str
    updated_at: str
    broadcast: BroadcastShown | None


def follow_status_of(found: Status) -> FollowStatus:
    """Write whether a follow exists."""
    return FollowStatus(found.row is not None, None if found.row is None else wire_time(found.row.created_at))


def follower(profile: Profile, at: str) -> Follower:
    """One line of a followers list; of an erased user, whose follows end in a moment, only a placeholder."""
    return Follower(shown_id(profile), profile.display_name, profile.avatar_url, at)


def followed(profile: Profile, at: str) -> Followed:
    """One line of a following list; like ``follower``."""
    return Followed(
        shown_id(profile),
        profile.display_name,
        profile.login,
        profile.avatar_url,
        profile.is_available,
        at,
    )


def listing(side: Side, found: Entries, cards: Sequence[Card], pagination: Pagination) -> bytes:
    """The JSON of a ``Listing``: what is the same in everybody's list is encoded once a profile, not once a line."""
    lines = [
        f'{card.drawn.get(side) or _begun(side, card)}{followed_at(score)[0]}"}}'
        for card, score in zip(cards, found.scores, strict=True)
    ]
    ended = msgspec.json.encode(pagination).decode()
    return f'{{"success":true,"data":[{",".join(lines)}],"pagination":{ended}}}'.encode()


def _begun(side: Side, card: Card) -> str:
    """A line up to its time, which comes last."""
    line = (follower if side == "followers" else followed)(card.profile, "")
    begun = card.drawn[side] = msgspec.json.encode(line).decode().removesuffix('"}')
    return begun


def shown_id(profile: Profile) -> str:
    """The user's id; one that nobody has for an erased user."""
    return f"erased-{profile.number}" if profile.erased else profile.id


def user(profile: Profile, followers: int | None, following: int | None) -> User:
    """The public profile: no e-mail, no settings."""
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
