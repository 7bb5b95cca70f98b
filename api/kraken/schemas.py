"""The objects of /kraken to the last field: user, channel, stream, follow, and the pages that lists come in."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.timestamps import WireTime

_WIRE: Final = {"links": "_links", "number": "_id", "total": "_total", "cursor": "_cursor", "itself": "self"}
Uri = Annotated[str, Meta(extra_json_schema={"format": "uri"})]


class KrakenObject(msgspec.Struct, frozen=True, gc=False, rename=_WIRE):
    """Parent of all objects: ``_id`` and the like are not names in Python."""


class SelfLink(KrakenObject, frozen=True):
    """Where the object itself is."""

    itself: Uri


class PageLinks(KrakenObject, frozen=True):
    """This page and the next one; an empty page is the end and has no next one."""

    itself: Uri
    next: Uri | None


class UserObject(KrakenObject, frozen=True):
    """A user's public fields."""

    type: Literal["user"]
    name: str
    created_at: WireTime
    updated_at: WireTime
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

    type: Literal["user"]
    name: str
    created_at: WireTime
    updated_at: WireTime
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

    itself: Uri
    follows: Uri
    commercial: Uri
    stream_key: Uri
    chat: Uri
    features: Uri
    subscriptions: Uri
    editors: Uri
    teams: Uri
    videos: Uri


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
    created_at: WireTime
    updated_at: WireTime
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
    created_at: WireTime
    number: int
    channel: ChannelObject
    preview: PreviewLinks
    links: SelfLink


class StreamLinks(KrakenObject, frozen=True):
    """A stream's address and its channel's."""

    itself: Uri
    channel: Uri


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

    created_at: WireTime
    links: SelfLink
    notifications: bool
    user: UserObject


class FollowedObject(KrakenObject, frozen=True):
    """A follow, seen from the user."""

    created_at: WireTime
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
    created_at: WireTime
    updated_at: WireTime


class Token(KrakenObject, frozen=True):
    """What the token is good for; without a good one ``authorization`` is null, and there is no ``user_name``."""

    valid: bool
    authorization: Authorization | None
    user_name: str | UnsetType = UNSET


class ValidToken(KrakenObject, frozen=True):
    """The same for a good token, with the fields in the order in which clients know them."""

    authorization: Authorization
    user_name: str
    valid: bool = True


class RootLinks(KrakenObject, frozen=True):
    """Addresses of all resources; with a good token also of the user's own."""

    channel: Uri
    ingests: Uri
    search: Uri
    streams: Uri
    teams: Uri
    user: Uri
    users: Uri | UnsetType = UNSET
    channels: Uri | UnsetType = UNSET
    chat: Uri | UnsetType = UNSET


class Root(KrakenObject, frozen=True):
    """The token check that clients begin with; ``identified`` if the request has a client id."""

    token: Token
    links: RootLinks
    identified: bool | UnsetType = UNSET


class RootWithValidToken(KrakenObject, frozen=True):
    """The same with a good token."""

    token: ValidToken
    links: RootLinks
    identified: bool | UnsetType = UNSET
