"""The JSON of /kraken, to the last field: user, channel, stream and follow objects, and what lists wrap them in."""

from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from api.times import wire_time
from commands.users import Broadcast, Profile
from queries.channels import Channel
from queries.follows import Row

# The sizes that v3 offered of a preview, in pixels.
PREVIEWS: Final = {"small": (80, 45), "medium": (320, 180), "large": (640, 360)}
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

    token: ValidToken | InvalidToken
    links: RootLinks
    identified: bool | UnsetType = UNSET


def name_of(profile: Profile) -> str:
    """The login; one that nobody asked for when the user is erased and his last follows are just being ended."""
    return f"erased-{profile.number}" if profile.erased else profile.login


def _shared(base: str, profile: Profile, name: str) -> dict[str, Any]:
    """What user and channel objects have in common."""
    return {
        "name": name,
        "created_at": wire_time(profile.created_at),
        "updated_at": wire_time(profile.updated_at),
        "logo": profile.avatar_url,
        "number": profile.number,
        "display_name": profile.display_name or name,
    }


def user_object(base: str, profile: Profile) -> UserObject:
    """Write the public user object."""
    name = name_of(profile)
    links = SelfLink(f"{base}/users/{name}")
    return UserObject(type="user", links=links, bio=profile.bio, **_shared(base, profile, name))


def own_user_object(base: str, profile: Profile) -> OwnUserObject:
    """Write the user object with what only the user himself may see."""
    return OwnUserObject(
        type="user",
        links=SelfLink(f"{base}/users/{profile.login}"),
        email=profile.email,
        partnered=profile.partner,
        bio=profile.bio,
        notifications=OwnNotifications(profile.email_notifications, profile.push_notifications),
        **_shared(base, profile, profile.login),
    )


def channel_object(base: str, profile: Profile, followers: int) -> ChannelObject:
    """Write the channel object; ``followers`` is the length of the list of them."""
    name = name_of(profile)
    return ChannelObject(
        mature=profile.mature,
        status=profile.status,
        broadcaster_language=profile.broadcaster_language,
        game=profile.game,
        delay=profile.delay,
        language=profile.language,
        banner=profile.banner,
        video_banner=profile.video_banner,
        background=profile.background,
        profile_banner=profile.profile_banner,
        profile_banner_background_color=profile.profile_banner_background_color,
        partner=profile.partner,
        url=profile.url,
        views=profile.views,
        followers=followers,
        links=_channel_links(base, name),
        **_shared(base, profile, name),
    )


def _channel_links(base: str, name: str) -> ChannelLinks:
    own = f"{base}/channels/{name}"
    return ChannelLinks(
        itself=own,
        follows=f"{own}/follows",
        commercial=f"{own}/commercial",
        stream_key=f"{own}/stream_key",
        chat=f"{base}/chat/{name}",
        features=f"{own}/features",
        subscriptions=f"{own}/subscriptions",
        editors=f"{own}/editors",
        teams=f"{own}/teams",
        videos=f"{own}/videos",
    )


def stream_object(base: str, broadcast: Broadcast, channel: Channel) -> StreamObject:
    """Write the stream object of a live channel."""
    return StreamObject(
        game=broadcast.game,
        viewers=broadcast.viewers,
        average_fps=broadcast.average_fps,
        delay=broadcast.delay,
        video_height=broadcast.video_height,
        is_playlist=broadcast.is_playlist,
        created_at=wire_time(broadcast.started_at),
        number=broadcast.id,
        channel=channel_object(base, channel.profile, channel.followers),
        preview=_preview(broadcast.preview),
        links=SelfLink(f"{base}/streams/{name_of(channel.profile)}"),
    )


def _preview(template: str | None) -> PreviewLinks:
    """The sizes of a preview whose address holds ``{width}`` and ``{height}``; one without is the same in all sizes."""
    if template is None:
        return PreviewLinks(None, None, None, None)
    sizes = {
        name: template.replace("{width}", str(width)).replace("{height}", str(height))
        for name, (width, height) in PREVIEWS.items()
    }
    return PreviewLinks(**sizes, template=template)


def follower_object(base: str, channel: str, row: Row, follower: Profile) -> FollowerObject:
    """Write one line of a channel's followers."""
    links = _follow_link(base, name_of(follower), channel)
    return FollowerObject(wire_time(row.created_at), links, row.notifications, user_object(base, follower))


def followed_object(
    base: str, user: str, created_at: int, notifications: bool, channel: ChannelObject
) -> FollowedObject:
    """Write a follow as its user sees it; ``created_at`` in us."""
    return FollowedObject(wire_time(created_at), _follow_link(base, user, channel.name), notifications, channel)


def _follow_link(base: str, user: str, channel: str) -> SelfLink:
    return SelfLink(f"{base}/users/{user}/follows/channels/{channel}")
