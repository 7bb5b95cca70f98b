"""The objects of /kraken to the last field: user, channel, stream, follow, and the pages that lists come in."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

_WIRE: Final = {"links": "_links", "number": "_id", "total": "_total", "cursor": "_cursor", "itself": "self"}


class Wire(msgspec.Struct, frozen=True, gc=False, rename=_WIRE):
    """Parent of all objects: ``_id`` and the like are no names in Python."""


class SelfLink(Wire, frozen=True):
    """Where the object itself is."""

    itself: str


class PageLinks(Wire, frozen=True):
    """This page and the one behind it; an empty page is the end and has none behind it."""

    itself: str
    next: str | None


class UserObject(Wire, frozen=True):
    """A user, as everybody may see him."""

    type: str
    name: str
    created_at: str
    updated_at: str
    links: SelfLink
    logo: str | None
    number: int
    display_name: str
    bio: str | None


class OwnNotifications(Wire, frozen=True):
    """How the user wants to be told."""

    email: bool
    push: bool


class OwnUserObject(Wire, frozen=True):
    """A user, as he sees himself."""

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


class ChannelLinks(Wire, frozen=True):
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


class ChannelObject(Wire, frozen=True):
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


class PreviewLinks(Wire, frozen=True):
    """Pictures of the stream in three sizes, and the address to put others into."""

    small: str | None
    medium: str | None
    large: str | None
    template: str | None


class StreamObject(Wire, frozen=True):
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


class StreamLinks(Wire, frozen=True):
    """A stream's address and its channel's."""

    itself: str
    channel: str


class StreamAnswer(Wire, frozen=True):
    """What a channel broadcasts now; null when it does not."""

    stream: StreamObject | None
    links: StreamLinks


class StreamsPage(Wire, frozen=True):
    """A page of live streams."""

    links: PageLinks
    total: int
    streams: list[StreamObject]


class FollowerObject(Wire, frozen=True):
    """A follow, seen from the channel."""

    created_at: str
    links: SelfLink
    notifications: bool
    user: UserObject


class FollowedObject(Wire, frozen=True):
    """A follow, seen from the user."""

    created_at: str
    links: SelfLink
    notifications: bool
    channel: ChannelObject


class FollowersPage(Wire, frozen=True):
    """A page of a channel's followers; ``_cursor`` is "" on the empty page that ends the list."""

    total: int
    links: PageLinks
    cursor: str
    follows: list[FollowerObject]


class FollowedPage(Wire, frozen=True):
    """A page of followed channels; ``_cursor`` is null where the order has none."""

    total: int
    links: PageLinks
    cursor: str | None
    follows: list[FollowedObject]


class Authorization(Wire, frozen=True):
    """What a token allows and since when."""

    scopes: list[str]
    created_at: str
    updated_at: str


class ValidToken(Wire, frozen=True):
    """A good token."""

    authorization: Authorization
    user_name: str
    valid: bool = True


class InvalidToken(Wire, frozen=True):
    """A bad token, or none."""

    valid: bool = False
    authorization: None = None


class RootLinks(Wire, frozen=True):
    """Where everything is; with a good token also what is its user's."""

    channel: str
    ingests: str
    search: str
    streams: str
    teams: str
    user: str
    users: str | UnsetType = UNSET
    channels: str | UnsetType = UNSET
    chat: str | UnsetType = UNSET


class Root(Wire, frozen=True):
    """The token check that clients begin with; ``identified`` when the client said who made it."""

    token: ValidToken
    links: RootLinks
    identified: bool | UnsetType = UNSET


class RootForNobody(Wire, frozen=True):
    """The same without a good token."""

    token: InvalidToken
    links: RootLinks
    identified: bool | UnsetType = UNSET
