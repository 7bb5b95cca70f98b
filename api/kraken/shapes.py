"""Profiles and rows become the objects of /kraken."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from api.kraken.objects import (
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
from api.times import followed_at, wire_time
from commands.users import Broadcast, Profile
from queries.cards import Card
from queries.channels import Channel
from queries.follows import Entries, Row

# The sizes that v3 offered of a preview, in pixels.
PREVIEWS: Final = {"small": (80, 45), "medium": (320, 180), "large": (640, 360)}


def name_of(profile: Profile) -> str:
    """The login; one that nobody asked for when the user is erased and his last follows are just being ended."""
    return f"erased-{profile.number}" if profile.erased else profile.login


def _shared(profile: Profile, name: str) -> dict[str, Any]:
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
    return UserObject(type="user", links=links, bio=profile.bio, **_shared(profile, name))


def own_user_object(base: str, profile: Profile) -> OwnUserObject:
    """Write the user object with what only the user himself may see."""
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


def followers_page(page: FollowersPage, base: str, channel: str, found: Entries, cards: Sequence[Card]) -> bytes:
    """The JSON of ``page``, which has no lines yet, with its lines: what is the same in every channel's list is encoded
    once a follower, not once a line."""
    lines = []
    for card, score in zip(cards, found.scores, strict=True):
        made, begun, ended = card.drawn.get("kraken") or _drawn(base, card)
        if made != base:
            made, begun, ended = _drawn(base, card)
        created_at, notifications = followed_at(score)
        lines.append(f'{_BEGIN}{created_at}{begun}{channel}"}},"notifications":{notifications}{ended}')
    return f"{msgspec.json.encode(page).decode().removesuffix(']}')}{','.join(lines)}]}}".encode()


# How a follower's line begins, and what stands between the channel's name and the user.
_BEGIN: Final = '{"created_at":"'
_BETWEEN: Final = '"},"notifications":false'


def _drawn(base: str, card: Card) -> tuple[str, str, str]:
    """What of a line is the follower's own: behind the time, and behind the flag. Of one base at a time, since clients
    can make up as many as they like."""
    link = _follow_link(base, name_of(card.profile), "")
    line = msgspec.json.encode(FollowerObject("", link, False, user_object(base, card.profile))).decode()
    begun, _, ended = line.removeprefix(_BEGIN).partition(_BETWEEN)
    card.drawn["kraken"] = base, begun, ended
    return base, begun, ended


def followed_object(base: str, user: str, row: Row, channel: ChannelObject) -> FollowedObject:
    """Write a follow as its user sees it."""
    links = _follow_link(base, user, channel.name)
    return FollowedObject(wire_time(row.created_at), links, row.notifications, channel)


def _follow_link(base: str, user: str, channel: str) -> SelfLink:
    return SelfLink(f"{base}/users/{user}/follows/channels/{channel}")
