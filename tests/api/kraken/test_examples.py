"""The objects of the API document, with all fields in its order, for the document's own users."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.in_process import InProcess
from tests.support.version_3_users import (
    CHANNEL,
    PICTURES,
    USER1,
    USER2,
    add_users_of_version_3,
    token_of_version_3,
)

BASE = "https://api.twitch.tv/kraken"
USER_OBJECT = {
    "type": "user",
    "name": "test_user2",
    "created_at": "2013-02-06T21:21:57Z",
    "updated_at": "2013-02-13T20:59:42Z",
    "_links": {"self": f"{BASE}/users/test_user2"},
    "logo": None,
    "_id": USER2,
    "display_name": "Test_User2",
    "bio": "test user's bio",
}


def channel_object(**changes: object) -> dict[str, Any]:
    """Return the channel, its fields in the order of the document."""
    own = f"{BASE}/channels/test_channel"
    return {
        "mature": False,
        "status": "test status",
        "broadcaster_language": "en",
        "display_name": "test_channel",
        "game": "Gaming Talk Shows",
        "delay": 0,
        "language": "en",
        "_id": CHANNEL,
        "name": "test_channel",
        "created_at": "2007-05-22T10:39:54Z",
        "updated_at": "2015-02-12T04:15:49Z",
        "logo": f"{PICTURES}/jtv_user_pictures/test_channel-300x300.jpeg",
        "banner": f"{PICTURES}/jtv_user_pictures/test_channel-640x125.png",
        "video_banner": f"{PICTURES}/jtv_user_pictures/test_channel-640x360.png",
        "background": None,
        "profile_banner": f"{PICTURES}/jtv_user_pictures/test_channel-480.png",
        "profile_banner_background_color": None,
        "partner": True,
        "url": "http://www.twitch.tv/test_channel",
        "views": 49_144_894,
        "followers": 2,
        "_links": {
            "self": own,
            "follows": f"{own}/follows",
            "commercial": f"{own}/commercial",
            "stream_key": f"{own}/stream_key",
            "chat": f"{BASE}/chat/test_channel",
            "features": f"{own}/features",
            "subscriptions": f"{own}/subscriptions",
            "editors": f"{own}/editors",
            "teams": f"{own}/teams",
            "videos": f"{own}/videos",
        },
        **changes,
    }


def stream_object() -> dict[str, Any]:
    """Return the channel's stream, its fields in the order of the document."""
    preview = f"{PICTURES}/previews-ttv/live_user_test_channel"
    return {
        "game": "StarCraft II: Heart of the Swarm",
        "viewers": 2123,
        "average_fps": 29.9880749574,
        "delay": 0,
        "video_height": 720,
        "is_playlist": False,
        "created_at": "2015-02-12T04:42:31Z",
        "_id": 4_989_654_544,
        "channel": channel_object(),
        "preview": {
            "small": f"{preview}-80x45.jpg",
            "medium": f"{preview}-320x180.jpg",
            "large": f"{preview}-640x360.jpg",
            "template": f"{preview}-{{width}}x{{height}}.jpg",
        },
        "_links": {"self": f"{BASE}/streams/test_channel"},
    }


def follow_object(notifications: bool = True) -> dict[str, Any]:
    """Return the follow of test_user2 as the document shows it."""
    return {
        "created_at": "2013-06-02T09:38:45Z",
        "_links": {"self": f"{BASE}/users/test_user2/follows/channels/test_channel"},
        "notifications": notifications,
        "channel": channel_object(),
    }


@pytest.fixture(scope="module")
async def document(service: InProcess) -> InProcess:
    """The service with the document's users, the channel live, and its two followers."""
    await add_users_of_version_3(service)
    return service


@pytest.fixture
async def client(document: InProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client that uses the address of the original service."""
    transport = httpx.ASGITransport(app=document.app)  # type: ignore[arg-type]
    headers = {"Accept": "application/vnd.twitchtv.v3+json"}
    async with httpx.AsyncClient(transport=transport, base_url="https://api.twitch.tv", headers=headers) as made:
        yield made


async def expect(client: httpx.AsyncClient, path: str, expected: dict[str, Any], token: str = "") -> None:
    """Check that the body has exactly these fields, in this order."""
    headers = {"Authorization": f"OAuth {token}"} if token else {}
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-api-version"] == "3"
    assert answer.text == json.dumps(expected, separators=(",", ":"), ensure_ascii=False)


async def test_user(client: httpx.AsyncClient) -> None:
    await expect(client, "/kraken/users/test_user2", USER_OBJECT)


async def test_own_user(client: httpx.AsyncClient, document: InProcess) -> None:
    expected = {
        "type": "user",
        "name": "test_user1",
        "created_at": "2011-06-03T17:49:19Z",
        "updated_at": "2012-06-18T17:19:57Z",
        "_links": {"self": f"{BASE}/users/test_user1"},
        "logo": None,
        "_id": USER1,
        "display_name": "test_user1",
        "email": "asdf@asdf.com",
        "partnered": True,
        "bio": "woo",
        "notifications": {"email": True, "push": False},
    }
    await expect(client, "/kraken/user", expected, token_of_version_3(document, "test_user1"))


async def test_channel(client: httpx.AsyncClient) -> None:
    await expect(client, "/kraken/channels/test_channel", channel_object())


async def test_stream(client: httpx.AsyncClient) -> None:
    links = {"self": f"{BASE}/streams/test_channel", "channel": f"{BASE}/channels/test_channel"}
    await expect(client, "/kraken/streams/test_channel", {"stream": stream_object(), "_links": links})


async def test_stream_of_a_channel_that_is_not_live(client: httpx.AsyncClient) -> None:
    links = {"self": f"{BASE}/streams/test_user1", "channel": f"{BASE}/channels/test_user1"}
    await expect(client, "/kraken/streams/test_user1", {"stream": None, "_links": links})


async def test_followers(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/kraken/channels/test_channel/follows?limit=1")).json()
    cursor = answer["_cursor"]
    expected = {
        "_total": 2,
        "_links": {
            "self": f"{BASE}/channels/test_channel/follows?direction=DESC&limit=1",
            "next": f"{BASE}/channels/test_channel/follows?cursor={cursor}&direction=DESC&limit=1",
        },
        "_cursor": cursor,
        "follows": [
            {
                "created_at": "2013-06-02T09:38:45Z",
                "_links": {"self": f"{BASE}/users/test_user2/follows/channels/test_channel"},
                "notifications": True,
                "user": USER_OBJECT,
            }
        ],
    }
    await expect(client, "/kraken/channels/test_channel/follows?limit=1", expected)


async def test_followed_channels(client: httpx.AsyncClient) -> None:
    address = f"{BASE}/users/test_user2/follows/channels"
    answer = (await client.get("/kraken/users/test_user2/follows/channels")).json()
    expected = {
        "_total": 1,
        "_links": {
            "self": f"{address}?direction=DESC&limit=25&offset=0",
            "next": f"{address}?direction=DESC&limit=25&offset=25",
        },
        "_cursor": answer["_cursor"],
        "follows": [follow_object()],
    }
    await expect(client, "/kraken/users/test_user2/follows/channels", expected)


async def test_follow(client: httpx.AsyncClient) -> None:
    await expect(client, "/kraken/users/test_user2/follows/channels/test_channel", follow_object())


async def test_put_of_a_follow_that_exists_changes_nothing(client: httpx.AsyncClient, document: InProcess) -> None:
    headers = {"Authorization": f"OAuth {token_of_version_3(document, 'Test_User2')}"}
    answer = await client.put("/kraken/users/test_user2/follows/channels/test_channel", headers=headers)
    assert (answer.status_code, answer.json()) == (200, follow_object())


async def test_live_channels(client: httpx.AsyncClient, document: InProcess) -> None:
    expected = {
        "_links": {
            "self": f"{BASE}/streams/followed?limit=25&offset=0",
            "next": f"{BASE}/streams/followed?limit=25&offset=25",
        },
        "_total": 1,
        "streams": [stream_object()],
    }
    await expect(client, "/kraken/streams/followed", expected, token_of_version_3(document, "Test_User2"))


async def test_live_channels_of_user_without_follows_are_empty(client: httpx.AsyncClient, document: InProcess) -> None:
    links = {"self": f"{BASE}/streams/followed?limit=25&offset=0", "next": None}
    for name in ("test_channel", "nobody-yet"):
        await expect(
            client,
            "/kraken/streams/followed",
            {"_links": links, "_total": 0, "streams": []},
            token_of_version_3(document, name),
        )


async def test_token_check(client: httpx.AsyncClient, document: InProcess) -> None:
    places = {place: f"{BASE}/{place}" for place in ("channel", "ingests", "search", "streams", "teams", "user")}
    invalid = {"token": {"valid": False, "authorization": None}, "_links": places}
    await expect(client, "/kraken", invalid)
    await expect(client, "/kraken?oauth_token=nonsense", invalid)
    await expect(client, "/kraken?client_id=abc", {**invalid, "identified": True})
    own = {place: f"{BASE}/{place}/test_user1" for place in ("users", "channels", "chat")}
    valid = {
        "token": {
            "authorization": {
                "scopes": ["user_follows_edit", "user_read"],
                "created_at": "2012-05-08T21:55:12Z",
                "updated_at": "2012-05-08T21:55:12Z",
            },
            "user_name": "test_user1",
            "valid": True,
        },
        "_links": {**places, **own},
    }
    await expect(client, "/kraken", valid, token_of_version_3(document, "test_user1"))


async def test_error_has_documented_body(client: httpx.AsyncClient) -> None:
    answer = await client.get("/kraken/users/X")
    assert answer.status_code == 404
    assert answer.text == '{"error":"Not Found","status":404,"message":"User \'x\' does not exist"}'
