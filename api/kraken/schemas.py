"""The objects of /kraken to the last field: user, channel, stream, follow, and the pages that lists come in."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

_WIRE: Final = {"links": "_links", "number": "_id", "total": "_total", "cursor": "_cursor", "itself": "self"}


class KrakenObject(msgspec.Struct, frozen=True, gc=False, rename=_WIRE):
    """Parent of all objects: ``_id`` and the like are not names in Python."""


class SelfLink(KrakenObject, frozen=True):
    """Where the object itself is."""

    itself: str


class PageLinks(KrakenObject, frozen=True):
    """This page and the next one; an empty page is the end and has no next one."""

    itself: str
    next: str | None


class UserObject(KrakenObject, frozen=True):
    """A user's public fields."""

    type: str
    name: str
    created_at: str
    updated_at: str
    links: SelfLink
    logo: str | None
    number: int
    display_name: str
    bio: str | None


class OwnNotifications(KrakenObject, frozen=True):
    """How the user is notified."""

    email: bool
    push: bool


class OwnUserObject(KrakenObject, frozen=True):
    """A user's fields for the user's own token."""

    type: str
    name: str
    created_at: str
    updated_at: str
    links: SelfLink
    logo: str | None
    number: int
    display_name: str
    email: str | None
    partnered: bool
    bio: str | None
    notifications: OwnNotifications


class ChannelLinks(KrakenObject, frozen=True):
    """Where the channel's things are; this service has ``self`` and ``follows``."""

    itself: str
    follows: str
    commercial: str
    stream_key: str
    chat: str
    features: str
    subscriptions: str
    editors: str
    teams: str
    videos: str


class ChannelObject(KrakenObject, frozen=True):
    """A user as a broadcaster; ``followers`` is the ``_total`` of the list of them."""

    mature: bool | None
    status: str | None
    broadcaster_language: str | None
    display_name: str
    game: str | None
    delay: int | None
    language: str | None
    number: int
    name: str
    created_at: str
    updated_at: str
    logo: str | None
    banner: str | None
    video_banner: str | None
    background: str | None
    profile_banner: str | None
    profile_banner_background_color: str | None
    partner: bool
    url: str | None
    views: int
    followers: int
    links: ChannelLinks


class PreviewLinks(KrakenObject, frozen=True):
    """Pictures of the stream in three sizes, and the template for others."""

    small: str | None
    medium: str | None
    large: str | None
    template: str | None


class StreamObject(KrakenObject, frozen=True):
    """A running broadcast."""

    game: str | None
    viewers: int
    average_fps: float
    delay: int
    video_height: int
    is_playlist: bool
    created_at: str
    number: int
    channel: ChannelObject
    preview: PreviewLinks
    links: SelfLink


class StreamLinks(KrakenObject, frozen=True):
    """A stream's address and its channel's."""

    itself: str
    channel: str


class StreamAnswer(KrakenObject, frozen=True):
    """A channel's broadcast, null while it has none."""

    stream: StreamObject | None
    links: StreamLinks


class StreamsPage(KrakenObject, frozen=True):
    """A page of live streams."""

    links: PageLinks
    total: int
    streams: list[StreamObject]


class FollowerObject(KrakenObject, frozen=True):
    """A follow, seen from the channel."""

    created_at: str
    links: SelfLink
    notifications: bool
    user: UserObject


class FollowedObject(KrakenObject, frozen=True):
    """A follow, seen from the user."""

    created_at: str
    links: SelfLink
    notifications: bool
    channel: ChannelObject


class FollowersPage(KrakenObject, frozen=True):
    """A page of a channel's followers; ``_cursor`` is "" on the empty page that ends the list."""

    total: int
    links: PageLinks
    cursor: str
    follows: list[FollowerObject]


class FollowedPage(KrakenObject, frozen=True):
    """A page of followed channels; ``_cursor`` is null where the order has none."""

    total: int
    links: PageLinks
    cursor: str | None
    follows: list[FollowedObject]


class Authorization(KrakenObject, frozen=True):
    """A token's scopes and the time of its issue."""

    scopes: list[str]
    created_at: str
    updated_at: str


class ValidToken(KrakenObject, frozen=True):
    """A good token."""

    authorization: Authorization
    user_name: str
    valid: bool = True


class InvalidToken(KrakenObject, frozen=True):
    """A bad token, or none."""

    valid: bool = False
    authorization: None = None


class RootLinks(KrakenObject, frozen=True):
    """Addresses of all resources; with a good token also of the user's own."""

    channel: str
    ingests: str
    search: str
    streams: str
    teams: str
    user: str
    users: str | UnsetType = UNSET
    channels: str | UnsetType = UNSET
    chat: str | UnsetType = UNSET


class Root(KrakenObject, frozen=True):
    """The token check that clients begin with; ``identified`` if the request has a client id."""

    token: ValidToken
    links: RootLinks
    identified: bool | UnsetType = UNSET


class RootWithoutToken(KrakenObject, frozen=True):
    """The same without a good token."""

    token: InvalidToken
    links: RootLinks
    identified: bool | UnsetType = UNSET
