"""Walks through a list by link, cursor and offset return each entry once, also while the list changes."""

import json

import pytest

from tests.support.in_process import InProcess
from tests.support.kraken_users import (
    LONG_AGO,
    crowd,
    follow_since,
    names,
    new_user,
    number_of,
    page,
    register,
    walk_by_cursor,
    walk_by_links,
)

SIZES = (0, 1, 99, 100, 101, 250)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", ["asc", "DESC"])
async def test_walk_by_cursor_meets_every_follower_once(service: InProcess, size: int, direction: str) -> None:
    channel = await new_user(service)
    fans = await crowd(service, channel, [LONG_AGO + at * 1_000_000 for at in range(size)])
    expected = fans if direction == "asc" else fans[::-1]
    address = f"/kraken/channels/{channel.id}/follows"
    for walk in (walk_by_links, walk_by_cursor):
        for limit in (100, 33):
            pages = await walk(service.anybody, address, limit=limit, direction=direction)
            assert names(pages) == expected
            assert {found["_total"] for found in pages} == {size}
            assert len(pages) == -(-size // limit) + 1
            assert pages[-1]["_cursor"] == "" and pages[-1]["_links"]["next"] is None


@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_equal_times_are_ordered_by_number(service: InProcess, direction: str) -> None:
    channel = await new_user(service)
    fans = await crowd(service, channel, [LONG_AGO] * 60 + [LONG_AGO + 1] * 70)
    expected = fans if direction == "asc" else fans[::-1]
    address = f"/kraken/channels/{channel.id}/follows"
    for limit in (1, 7, 25, 100):
        assert names(await walk_by_links(service.anybody, address, limit=limit, direction=direction)) == expected


@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_walk_under_writes_meets_stable_followers_once(service: InProcess, direction: str) -> None:
    channel, restless = await new_user(service), await new_user(service)
    leaving = [await new_user(service) for _ in range(8)]
    stay = await crowd(service, channel, [LONG_AGO + at // 3 for at in range(60)])
    number = await number_of(service, channel)
    await follow_since(
        service, [(await number_of(service, one), number, LONG_AGO + at * 2) for at, one in enumerate(leaving)]
    )
    address = f"/kraken/channels/{channel.id}/follows"
    found = await page(service.anybody, address, limit=5, direction=direction)
    met: list[str] = []
    while found["follows"]:
        met += [row["user"]["name"] for row in found["follows"]]
        if leaving:
            assert (await leaving.pop().unfollow(channel)).status_code == 204
            assert (await restless.follow(channel)).status_code == 201
            (late,) = await register(service, [f"{channel.id}-late-{len(met)}"])
            await follow_since(service, [(late, number, LONG_AGO + len(met) // 4)])
        found = await page(service.anybody, found["_links"]["next"])
        await restless.unfollow(channel)
    assert len(met) == len(set(met))
    assert [name for name in met if name in set(stay)] == (stay if direction == "asc" else stay[::-1])


async def test_cursor_of_ended_follow_is_valid(service: InProcess) -> None:
    channel = await new_user(service)
    fans = [await new_user(service) for _ in range(6)]
    for fan in fans:
        assert (await fan.follow(channel)).status_code == 201
    address = f"/kraken/channels/{channel.id}/follows"
    found = await page(service.anybody, address, limit=3)
    assert names([found]) == [fans[5].id, fans[4].id, fans[3].id]
    for gone in (fans[3], fans[4]):
        assert (await gone.unfollow(channel)).status_code == 204
    rest = await walk_by_cursor(service.anybody, address, cursor=found["_cursor"])
    assert names(rest) == [fans[2].id, fans[1].id, fans[0].id]
    assert rest[0]["_total"] == 4


async def test_links_after_offset_limit_carry_cursor(service: InProcess) -> None:
    channel = await new_user(service)
    fans = await crowd(service, channel, [LONG_AGO + at for at in range(1_730)])
    address = f"/kraken/channels/{channel.id}/follows"
    pages = await walk_by_links(service.anybody, address, limit=100, offset=0)
    assert names(pages) == fans[::-1]
    by = [found["_links"]["self"].partition("?")[2].partition("=")[0] for found in pages]
    assert by == ["direction"] * 17 + ["cursor"] * 2
    assert [f"offset={at * 100}" in found["_links"]["self"] for at, found in enumerate(pages)] == [True] * 17 + [
        False
    ] * 2
    past = await page(service.anybody, address, offset=1600, limit=100)
    assert names([past]) == fans[::-1][1600:1700]
    assert (await service.anybody.get(address, params={"offset": 1601})).json() == {
        "error": "Bad Request",
        "status": 400,
        "message": 'The parameter "offset" was malformed: the value must be less than or equal to 1600; '
        'use "cursor" to go further',
    }


async def test_links_have_documented_form(service: InProcess) -> None:
    channel = await new_user(service)
    await crowd(service, channel, [LONG_AGO + at for at in range(3)])
    base = f"http://follows.test/kraken/channels/{channel.id}/follows"
    first = await page(service.anybody, base)
    cursor = first["_cursor"]
    assert cursor.isdigit()
    assert first["_links"] == {
        "self": f"{base}?direction=DESC&limit=25",
        "next": f"{base}?cursor={cursor}&direction=DESC&limit=25",
    }
    asked = await page(service.anybody, base, limit=2, offset=1, direction="asc", unknown="x")
    assert asked["_links"] == {
        "self": f"{base}?direction=ASC&limit=2&offset=1",
        "next": f"{base}?direction=ASC&limit=2&offset=3",
    }
    both = await page(service.anybody, base, limit=1, offset=0, cursor=cursor, direction="asc")
    assert both["_links"]["self"] == f"{base}?cursor={cursor}&direction=ASC&limit=1"
    assert list(first) == ["_total", "_links", "_cursor", "follows"]


async def test_followed_list_is_walked_by_offset_and_by_cursor(service: InProcess) -> None:
    user = await new_user(service)
    logins = [f"{user.id}-idol-{at}" for at in range(57)]
    numbers, own = await register(service, logins), await number_of(service, user)
    await follow_since(service, [(own, number, LONG_AGO + at // 5) for at, number in enumerate(numbers)])
    address = f"http://follows.test/kraken/users/{user.id}/follows/channels"
    for direction, expected in (("asc", logins), ("desc", logins[::-1])):
        for walk in (walk_by_links, walk_by_cursor):
            pages = await walk(service.anybody, address, limit=10, direction=direction)
            assert names(pages, "channel") == expected
            assert {found["_total"] for found in pages} == {57}
    first = await page(service.anybody, address)
    assert first["_links"] == {
        "self": f"{address}?direction=DESC&limit=25&offset=0",
        "next": f"{address}?direction=DESC&limit=25&offset=25",
    }
    by_cursor = await page(service.anybody, address, cursor=first["_cursor"], limit=2, sortby="created_at")
    assert by_cursor["_links"] == {
        "self": f"{address}?cursor={first['_cursor']}&direction=DESC&limit=2&sortby=created_at",
        "next": f"{address}?cursor={by_cursor['_cursor']}&direction=DESC&limit=2&sortby=created_at",
    }
    assert names([by_cursor], "channel") == logins[::-1][25:27]
    assert (await page(service.anybody, address, offset=10**30))["follows"] == []


async def test_lists_of_both_dialects_agree(service: InProcess) -> None:
    channel, fan = await new_user(service), await new_user(service)
    answer = await fan.put(f"/kraken/users/{fan.id}/follows/channels/{channel.id}")
    assert answer.status_code == 200
    theirs = (await fan.get(f"/v1/users/{channel.id}/followers")).json()
    ours = await page(service.anybody, f"/kraken/channels/{channel.id}/follows")
    assert theirs["pagination"]["total"] == ours["_total"] == 1
    assert theirs["data"][0]["followed_at"] == ours["follows"][0]["created_at"] == answer.json()["created_at"]
    assert (await channel.follow(fan)).status_code == 201
    back = await page(service.anybody, f"/kraken/users/{channel.id}/follows/channels")
    assert names([back], "channel") == [fan.id] and back["_total"] == 1
    assert json.dumps(back["follows"][0]["channel"]["followers"]) == "1"
