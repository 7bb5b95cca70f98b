"""The walk of the tutorial with the client that openapi-python-client generates."""

import os

from follows_client import AuthenticatedClient, Client
from follows_client.api.directory import end_broadcast, erase_user, put_broadcast, put_user, show_user
from follows_client.api.follows import follow, follow_status, list_followers, list_following, unfollow
from follows_client.api.kraken import (
    kraken_end_follow,
    kraken_list_followers,
    kraken_list_following,
    kraken_list_live,
    kraken_put_follow,
    kraken_root,
    kraken_show_follow,
)
from follows_client.models import (
    BroadcastChanges,
    BroadcastShown,
    ErrorAnswer,
    ErrorBodyCode,
    ErrorObject,
    FollowedObject,
    FollowedPage,
    FollowerList,
    FollowersPage,
    FollowingList,
    FollowMade,
    FollowStatus,
    KrakenListFollowingSortby,
    Root,
    StreamsPage,
    User,
    UserChanges,
)

ADDRESS = os.environ["FOLLOWS_ADDRESS"]
VIEWER = AuthenticatedClient(base_url=ADDRESS, token=os.environ["VIEWER_TOKEN"])
SERVICE = AuthenticatedClient(base_url=ADDRESS, token=os.environ["SERVICE_TOKEN"])


def walk_v1() -> None:
    status = follow_status.sync("demo-channel", client=VIEWER)
    assert isinstance(status, FollowStatus) and status.is_following and status.followed_at
    assert status.followed_at.isoformat() == "2024-08-03T15:05:31+00:00"
    page = list_followers.sync("demo-channel", client=VIEWER, page=1, per_page=2)
    assert isinstance(page, FollowerList) and len(page.data) == 2 and page.pagination.total_pages == 140
    made = follow.sync_detailed("demo-stranger", client=VIEWER)
    assert made.status_code == 201 and isinstance(made.parsed, FollowMade)
    position = int(made.headers["follow-position"])
    assert made.parsed.follower_id == "demo-viewer" and made.parsed.created_at.tzinfo is not None
    again = follow.sync("demo-stranger", client=VIEWER)
    assert isinstance(again, ErrorAnswer) and again.error.code is ErrorBodyCode.CONFLICT
    mine = list_following.sync("me", client=VIEWER, per_page=1, follow_position=position)
    assert isinstance(mine, FollowingList) and mine.data[0].id == "demo-stranger"
    assert unfollow.sync_detailed("demo-stranger", client=VIEWER).status_code == 204
    refused = follow.sync("me", client=VIEWER)
    assert isinstance(refused, ErrorAnswer) and refused.error.code is ErrorBodyCode.VALIDATION_ERROR


def walk_directory() -> None:
    host = UserChanges(username="NewHost", bio="Cooking, slowly.", is_available=True)
    made = put_user.sync_detailed("new-host", client=SERVICE, body=host)
    assert made.status_code == 201 and isinstance(made.parsed, User) and made.parsed.broadcast is None
    live = BroadcastChanges(game="Cooking", title="Bread", viewers=120)
    assert put_broadcast.sync_detailed("new-host", client=SERVICE, body=live).status_code == 204
    shown = show_user.sync("new-host", client=VIEWER)
    assert isinstance(shown, User) and isinstance(shown.broadcast, BroadcastShown) and shown.broadcast.viewers == 120
    assert end_broadcast.sync_detailed("new-host", client=SERVICE).status_code == 204
    assert erase_user.sync_detailed("new-host", client=SERVICE).status_code == 204
    gone = show_user.sync("new-host", client=VIEWER)
    assert isinstance(gone, ErrorAnswer) and gone.error.code is ErrorBodyCode.NOT_FOUND


def walk_kraken() -> None:
    root = kraken_root.sync(client=VIEWER)
    assert isinstance(root, Root) and root.token.valid and root.token.user_name == "demo_viewer"
    anonymous = kraken_root.sync(client=Client(base_url=ADDRESS))  # type: ignore[arg-type]
    assert isinstance(anonymous, Root) and not anonymous.token.valid and anonymous.token.authorization is None
    page = kraken_list_followers.sync("demo_channel", client=VIEWER, limit=1)
    assert isinstance(page, FollowersPage) and page.field_total == 280 and page.follows[0].user.name == "dustyurchin"
    onward = kraken_list_followers.sync("demo_channel", client=VIEWER, limit=1, cursor=page.field_cursor)
    assert isinstance(onward, FollowersPage) and onward.follows[0].user.name != "dustyurchin"
    by_broadcast = KrakenListFollowingSortby.LAST_BROADCAST
    followed = kraken_list_following.sync("demo_viewer", client=VIEWER, limit=1, sortby=by_broadcast)
    assert isinstance(followed, FollowedPage) and followed.field_cursor is None
    assert followed.follows[0].channel.game == "Pinball"
    put = kraken_put_follow.sync("demo_viewer", "demo_stranger", client=VIEWER, notifications=True)
    assert isinstance(put, FollowedObject) and put.notifications and put.channel.name == "demo_stranger"
    ended = kraken_end_follow.sync_detailed("demo_viewer", "demo_stranger", client=VIEWER)
    assert ended.status_code == 204
    missing = kraken_show_follow.sync("demo_viewer", "demo_stranger", client=VIEWER)
    assert isinstance(missing, ErrorObject) and missing.status == 404
    live = kraken_list_live.sync(client=VIEWER, limit=1)
    assert isinstance(live, StreamsPage) and live.streams[0].field_id > 0 and live.streams[0].game == "Chess"
    refused = kraken_list_live.sync(client=Client(base_url=ADDRESS))  # type: ignore[arg-type]
    assert isinstance(refused, ErrorObject) and "user_read" in refused.message


walk_v1()
walk_directory()
walk_kraken()
