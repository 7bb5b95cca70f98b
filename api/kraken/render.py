"""Profiles and rows become the objects of /kraken."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from api.kraken.schemas import (
    ChannelLinks,
    ChannelObject,
    FollowedObject,
    FollowerObject,
    FollowersPage,
    OwnNotifications,
    OwnUserObject,
    PreviewLinks,
    SelfLink,
    StreamObject,
    UserObject,
)
from api.timestamps import notifications_of, time_of, wire_time
from commands.users import Broadcast, Profile, placeholder
from queries.channels import Channel
from queries.follows import FollowRow, RawPage
from queries.profile_cache import CachedProfile

# The sizes that v3 offered of a preview, in pixels.
PREVIEW_SIZES: Final = {"small": (80, 45), "medium": (320, 180), "large": (640, 360)}


def name_of(profile: Profile) -> str:
    """Return the login; a placeholder for an erased user: the last follows are about to end."""
    return placeholder(profile.number) if profile.erased else profile.login


def _shared(profile: Profile, name: str) -> dict[str, Any]:
    """Return the fields that user and channel objects have in common."""
    return {
        "name": name,
        "created_at": wire_time(profile.created_at),
        "updated_at": wire_time(profile.updated_at),
        "logo": profile.avatar_url,
        "number": profile.number,
        "display_name": profile.display_name or name,
    }


def public_user_object(base: str, profile: Profile) -> UserObject:
    """Return the public user object."""
    name = name_of(profile)
    links = SelfLink(f"{base}/users/{name}")
    return UserObject(type="user", links=links, bio=profile.bio, **_shared(profile, name))


def own_user_object(base: str, profile: Profile) -> OwnUserObject:
    """Return the user object with its private fields."""
    return OwnUserObject(
        type="user",
        links=SelfLink(f"{base}/users/{profile.login}"),
        email=profile.email,
        partnered=profile.partner,
        bio=profile.bio,
        notifications=OwnNotifications(profile.email_notifications, profile.push_notifications),
        **_shared(profile, profile.login),
    )


def channel_object(base: str, profile: Profile, followers: int) -> ChannelObject:
    """Return the channel object; ``followers`` is the length of the list of followers."""
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
        **_shared(profile, name),
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
    """Return the stream object of a live channel."""
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
    """Return a preview's addresses. The template may have ``{width}`` and ``{height}``."""
    if template is None:
        return PreviewLinks(None, None, None, None)
    sizes = {
        name: template.replace("{width}", str(width)).replace("{height}", str(height))
        for name, (width, height) in PREVIEW_SIZES.items()
    }
    return PreviewLinks(**sizes, template=template)


def followers_page(
    page: FollowersPage, base: str, channel: str, found: RawPage, cached_profiles: Sequence[CachedProfile]
) -> bytes:
    """Return the JSON of ``page``, which has no rows yet, with its rows.

    What is the same in every channel's list is encoded once per follower, not once per row.
    """
    lines = []
    for cached, score in zip(cached_profiles, found.scores, strict=True):
        made, begun, ended = cached.kraken or _line_parts(base, cached)
        if made != base:
            made, begun, ended = _line_parts(base, cached)
        begun = f"{_BEGIN}{time_of(score)}{begun}"
        lines.append(f'{begun}{channel}"}},"notifications":{notifications_of(score)}{ended}')
    return f"{msgspec.json.encode(page).decode().removesuffix(']}')}{','.join(lines)}]}}".encode()


# The beginning of a follower's row, and the part between the channel's name and the user.
_BEGIN: Final = '{"created_at":"'
_BETWEEN: Final = '"},"notifications":false'


def _line_parts(base: str, cached: CachedProfile) -> tuple[str, str, str]:
    """Return the base, and the follower's parts of a row: after the time, and after the flag. They are cached for one
    base at a time, since clients can make up any number of bases."""
    profile = cached.profile
    link = _follow_link(base, name_of(profile), "")
    line = msgspec.json.encode(FollowerObject("", link, False, public_user_object(base, profile))).decode()
    begun, _, ended = line.removeprefix(_BEGIN).partition(_BETWEEN)
    cached.keep("kraken", (base, begun, ended), len(base) + len(begun) + len(ended))
    return base, begun, ended


def followed_object(base: str, user: str, row: FollowRow, channel: ChannelObject) -> FollowedObject:
    """Return a follow as its user sees it."""
    links = _follow_link(base, user, channel.name)
    return FollowedObject(wire_time(row.created_at), links, row.notifications, channel)


def _follow_link(base: str, user: str, channel: str) -> SelfLink:
    return SelfLink(f"{base}/users/{user}/follows/channels/{channel}")
