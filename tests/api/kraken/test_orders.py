"""Followed channels by login, by last broadcast, and the live ones, compared with a plain sort of dicts."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from tests.support.in_process import InProcess, Person
from tests.support.kraken_users import names, new_user, page, walk_by_links


async def live(service: InProcess, channel: Person, **fields: object) -> None:
    """Let a channel broadcast."""
    answer = await service.platform.put(f"/v1/users/{channel.id}/broadcast", json=fields)
    assert answer.status_code == 204, answer.text


async def ended(service: InProcess, channel: Person) -> None:
    """Let a channel's broadcast end."""
    assert (await service.platform.delete(f"/v1/users/{channel.id}/broadcast")).status_code == 204


async def fan_of(service: InProcess, channels: list[Person]) -> Person:
    """Return a new user who follows them, in this order."""
    fan = await new_user(service)
    for channel in channels:
        assert (await fan.follow(channel)).status_code == 201
    return fan


async def test_orders(service: InProcess) -> None:
    chance = random.Random(7)
    channels = [await new_user(service) for _ in range(23)]
    chance.shuffle(channels)
    fan = await fan_of(service, channels)
    never, was, on = channels[:6], channels[6:14], channels[14:]
    for channel in was + on:
        await live(service, channel, viewers=chance.randrange(4))
    for channel in was:
        await ended(service, channel)
    numbers = {one.id: await service.services.directory.number(one.id) for one in channels}
    by_number: Callable[[Person], int] = lambda one: numbers[one.id]  # noqa: E731
    address = f"/kraken/users/{fan.id}/follows/channels"
    for direction, reverse in (("asc", False), ("desc", True)):
        last = sorted(never, key=by_number, reverse=reverse)
        recent = (was + on)[::-1] if reverse else was + on
        expected = {
            "created_at": channels[::-1] if reverse else channels,
            "login": sorted(channels, key=lambda one: one.id, reverse=reverse),
            "last_broadcast": recent + last,
        }
        for sortby, order in expected.items():
            for limit in (4, 100):
                pages = await walk_by_links(service.anybody, address, sortby=sortby, direction=direction, limit=limit)
                assert names(pages, "channel") == [one.id for one in order], (sortby, direction)
                assert {found["_total"] for found in pages} == {23}
                assert all(f"&sortby={sortby}" in found["_links"]["self"] for found in pages)
                assert {found["_cursor"] is None for found in pages} == {sortby != "created_at"}
    followed = {row["channel"]["name"]: row for row in (await page(service.anybody, address))["follows"]}
    by_login = await page(service.anybody, address, sortby="login")
    assert all(row == followed[row["channel"]["name"]] for row in by_login["follows"])


async def test_live_channels_by_viewers(service: InProcess) -> None:
    channels = [await new_user(service) for _ in range(12)]
    fan, other = await fan_of(service, channels), await new_user(service)
    shown = {channel.id: {"viewers": at % 4, "is_playlist": at % 3 == 0} for at, channel in enumerate(channels[:9])}
    for channel in channels[:9]:
        await live(service, channel, game="Go", **shown[channel.id])
    await live(service, other, viewers=1_000)  # not followed, so not seen
    order = sorted(shown, key=lambda name: (-int(shown[name]["viewers"]), int(name.rpartition("-")[2])))
    for kind, wanted in (
        ({}, order),
        ({"stream_type": "all"}, order),
        ({"stream_type": "playlist"}, [name for name in order if shown[name]["is_playlist"]]),
        ({"stream_type": "live"}, [name for name in order if not shown[name]["is_playlist"]]),
    ):
        met: list[str] = []
        found = await page(fan, "/kraken/streams/followed", limit=2, **kind)
        while found["streams"]:
            assert found["_total"] == len(wanted)
            met += [stream["channel"]["name"] for stream in found["streams"]]
            assert all(stream["viewers"] == shown[stream["channel"]["name"]]["viewers"] for stream in found["streams"])
            found = await page(fan, found["_links"]["next"])
        assert met == wanted
    await ended(service, channels[0])
    assert (await page(fan, "/kraken/streams/followed"))["_total"] == 8
    assert (await page(other, "/kraken/streams/followed"))["_total"] == 0


async def test_streams_keep_their_number_and_start_while_they_change(service: InProcess) -> None:
    channel = await new_user(service)
    address = f"/kraken/streams/{channel.id}"

    async def stream() -> dict[str, Any]:
        found: dict[str, Any] = (await page(service.anybody, address))["stream"]
        return found

    await live(service, channel, viewers=3)
    first = await stream()
    assert first["preview"] == {"small": None, "medium": None, "large": None, "template": None}
    await live(service, channel, viewers=5, preview="http://pictures.example/one.jpg")
    second = await stream()
    assert (second["_id"], second["created_at"], second["viewers"]) == (first["_id"], first["created_at"], 5)
    assert set(second["preview"].values()) == {"http://pictures.example/one.jpg"}
    await ended(service, channel)
    assert await stream() is None
    await live(service, channel)
    assert (await stream())["_id"] != first["_id"]


async def test_channel_fields_are_set_through_the_directory(service: InProcess) -> None:
    fields: dict[str, Any] = {
        "mature": True,
        "status": "on air",
        "broadcaster_language": "de",
        "game": "Go",
        "delay": 7,
        "language": "de-CH",
        "banner": "http://x/b",
        "video_banner": "http://x/v",
        "background": "http://x/g",
        "profile_banner": "http://x/p",
        "profile_banner_background_color": "#fff",
        "partner": True,
        "url": "http://x/",
        "views": 9,
    }
    channel = await new_user(service, **fields, avatar_url="http://x/l")
    shown = await page(service.anybody, f"/kraken/channels/{channel.id}")
    assert {name: shown[name] for name in fields} == fields
    assert shown["logo"] == "http://x/l"
    cleared = dict.fromkeys(name for name in fields if name not in ("partner", "views"))
    assert (await service.platform.put(f"/v1/users/{channel.id}", json=cleared)).status_code == 200
    shown = await page(service.anybody, f"/kraken/channels/{channel.id}")
    assert {name: shown[name] for name in cleared} == cleared


async def test_followers_count_equals_total_of_list(service: InProcess) -> None:
    channel = await new_user(service)
    fans = [await new_user(service) for _ in range(7)]
    await asyncio.gather(*(fan.follow(channel) for fan in fans))
    await fans[0].put(f"/kraken/users/{fans[0].id}/follows/channels/{channel.id}")
    await fans[1].unfollow(channel)
    await live(service, channel, viewers=1)
    total = (await page(service.anybody, f"/kraken/channels/{channel.id}/follows"))["_total"]
    stream = await page(service.anybody, f"/kraken/streams/{channel.id}")
    follow = await page(service.anybody, f"/kraken/users/{fans[0].id}/follows/channels/{channel.id}")
    streams = await page(fans[0], "/kraken/streams/followed")
    counts = {
        total,
        (await page(service.anybody, f"/kraken/channels/{channel.id}"))["followers"],
        stream["stream"]["channel"]["followers"],
        follow["channel"]["followers"],
        streams["streams"][0]["channel"]["followers"],
    }
    assert counts == {6}
