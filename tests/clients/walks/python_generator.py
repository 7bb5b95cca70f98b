"""The walk of the tutorial with the Python client that openapi-generator generates."""

import os
from collections.abc import Callable

from follows_generated import (
    ApiClient,
    ApiException,
    BroadcastChanges,
    Configuration,
    DirectoryApi,
    ErrorAnswer,
    ErrorObject,
    FollowsApi,
    KrakenApi,
    UserChanges,
)

ADDRESS = os.environ["FOLLOWS_ADDRESS"]


def client(token: str | None) -> ApiClient:
    """Return a client, which sends the token if it has one."""
    return ApiClient(Configuration(host=ADDRESS, access_token=token))


VIEWER, SERVICE = client(os.environ["VIEWER_TOKEN"]), client(os.environ["SERVICE_TOKEN"])


def refusal(call: Callable[[], object]) -> ErrorAnswer | ErrorObject:
    """Return the error that a call is refused with."""
    try:
        call()
    except ApiException as error:
        if isinstance(error.data, ErrorAnswer | ErrorObject):
            return error.data
        raise
    raise AssertionError("the call was not refused")


def code_of(call: Callable[[], object]) -> str:
    """Return the code that a call of /v1 is refused with."""
    found = refusal(call)
    assert isinstance(found, ErrorAnswer)
    return found.error.code


def walk_v1() -> None:
    follows = FollowsApi(VIEWER)
    status = follows.follow_status("demo-channel")
    assert status.is_following and status.followed_at
    assert status.followed_at.isoformat() == "2024-08-03T15:05:31+00:00"
    page = follows.list_followers("demo-channel", page=1, per_page=2)
    assert len(page.data) == 2 and page.pagination.total_pages == 140
    made = follows.follow_with_http_info("demo-stranger")
    assert made.status_code == 201 and made.data.follower_id == "demo-viewer" and made.headers
    position = int(made.headers["follow-position"])
    assert code_of(lambda: follows.follow("demo-stranger")) == "conflict"
    mine = follows.list_following("me", per_page=1, follow_position=position)
    assert mine.data[0].id == "demo-stranger"
    assert follows.unfollow_with_http_info("demo-stranger").status_code == 204
    assert code_of(lambda: follows.follow("me")) == "validation_error"


def walk_directory() -> None:
    directory, reader = DirectoryApi(SERVICE), DirectoryApi(VIEWER)
    host = UserChanges(username="NewHost", bio="Cooking, slowly.", is_available=True)
    made = directory.put_user_with_http_info("new-host", host)
    assert made.status_code == 201 and made.data.broadcast is None
    directory.put_broadcast("new-host", BroadcastChanges(game="Cooking", title="Bread", viewers=120))
    shown = reader.show_user("new-host")
    assert shown.broadcast and shown.broadcast.viewers == 120
    directory.end_broadcast("new-host")
    directory.erase_user("new-host")
    assert code_of(lambda: reader.show_user("new-host")) == "not_found"


def walk_kraken() -> None:
    kraken, anonymous = KrakenApi(VIEWER), KrakenApi(client(None))
    assert kraken.kraken_root().token.user_name == "demo_viewer"
    root = anonymous.kraken_root()
    assert not root.token.valid and root.token.authorization is None
    page = anonymous.kraken_list_followers("demo_channel", limit=1)
    assert page.total == 280 and page.follows[0].user.name == "dustyurchin"
    onward = kraken.kraken_list_followers("demo_channel", limit=1, cursor=page.cursor)
    assert onward.follows[0].user.name != "dustyurchin"
    followed = kraken.kraken_list_following("demo_viewer", limit=1, sortby="last_broadcast")
    assert followed.cursor is None and followed.follows[0].channel.game == "Pinball"
    put = kraken.kraken_put_follow("demo_viewer", "demo_stranger", notifications=True)
    assert put.notifications and put.channel.name == "demo_stranger"
    assert kraken.kraken_end_follow_with_http_info("demo_viewer", "demo_stranger").status_code == 204
    missing = refusal(lambda: kraken.kraken_show_follow("demo_viewer", "demo_stranger"))
    assert isinstance(missing, ErrorObject) and missing.status == 404
    live = kraken.kraken_list_live(limit=1)
    assert live.streams[0].id > 0 and live.streams[0].game == "Chess"
    refused = refusal(lambda: anonymous.kraken_list_live())
    assert isinstance(refused, ErrorObject) and "user_read" in refused.message


walk_v1()
walk_directory()
walk_kraken()
