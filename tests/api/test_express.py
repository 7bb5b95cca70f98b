"""The short way of the hot reads answers what the ordinary way answers, to the last byte, or leaves it to that."""

import asyncio
import re
from typing import Any

import httpx
import pytest

from api.kraken import gate as kraken_gate
from api.v1 import express as v1_express
from projections.keys import position_of
from tests.api.in_process import InProcess, Person, soon

MOVING = {"x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset", "date"}


async def nobody(*arguments: Any) -> None:
    """A short way that leaves everything to the ordinary one."""


async def ask(person: Person, path: str, *, short: bool, monkeypatch: pytest.MonkeyPatch) -> httpx.Response:
    """Ask by one of the two ways."""
    with monkeypatch.context() as patched:
        if not short:
            patched.setattr(v1_express, "read", nobody)
            patched.setattr(v1_express, "command", nobody)
            patched.setattr(kraken_gate, "express", nobody)
        return await person.get(path)


def shown(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """What a client sees of an answer, but for what differs from request to request."""
    headers = {name: value for name, value in answer.headers.items() if name not in MOVING}
    return answer.status_code, headers, answer.content


@pytest.fixture
async def crowd(service: InProcess) -> list[Person]:
    """Five people; the first is followed by all others and has a name that needs care in JSON."""
    star = service.stranger("star")
    fields = {"username": star.id.upper(), "display_name": 'Zoë "★" \\ ', "avatar_url": "http://a/?x=1&y=2"}
    assert (await service.platform.put(f"/v1/users/{star.id}", json=fields)).status_code == 201
    others = [await service.person("fan", display_name=f"fan {n} é") for n in range(4)]
    for other in others:
        assert (await other.follow(star)).status_code == 201
    assert (await star.follow(others[0])).status_code == 201

    async def is_over() -> bool:
        """Whether the short way is open: not for a moment after a start on servers that are as new."""
        await star.get("/v1/users/me/following")
        return service.parts.returning.over

    await soon(is_over)
    return [star, *others]


def paths(star: str, fan: str) -> list[str]:
    """Hot reads, and such as look like them."""
    queries = ["", "?page=1", "?per_page=2", "?page=2&per_page=2", "?per_page=100000", "?page=99", "?page=0", "?page=x"]
    queries += [
        "?page=1&page=2",
        "?page=",
        "?foo=1",
        "?per_page=2&page=1",
        "?page=01",
        "?page=1&",
        "?page=+1",
        "?page=%31",
    ]
    v1 = [
        f"/v1/users/{who}/{side}{query}"
        for who in (star, "me")
        for side in ("followers", "following")
        for query in queries
    ]
    v1 += [f"/v1/users/{who}/{side}" for who in ("nobody", "a.b", "%2e", "") for side in ("followers", "follow-status")]
    v1 += [f"/v1/users/{who}/follow-status" for who in (star, fan, "me")] + [
        f"/v1/users/{star}/",
        f"/v1/users/{star}/x",
    ]
    v1 += [f"/v1/users/{star}/follow-status?x=1", f"//v1/users/{star}/followers", f"/v1/users/{star}/followers/"]
    asked = [
        "",
        "?limit=1",
        "?limit=2&direction=asc",
        "?limit=2&offset=1",
        "?cursor=12345",
        "?limit=0",
        "?direction=up",
    ]
    asked += [
        "?offset=1601",
        "?limit=2&limit=3",
        "?x=1",
        "?api_version=3",
        "?callback=cb",
        "?callback=1x",
        "?limit=",
        "?offset=",
    ]
    asked += ["?limit=1&offset=1600", "?cursor=", "?oauth_token=x", "?client_id=y&limit=1"]
    names = [star, star.upper(), "nobody", "a.b"]
    kraken = [f"/kraken/channels/{name}/follows{query}" for name in names for query in asked]
    return [*v1, *kraken, f"//kraken//channels/{star}/follows/"]


async def test_both_ways_say_the_same(service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch) -> None:
    """For everything that is hot, and for what only looks so; also with a token that is nobody's and with none."""
    star, fan = crowd[:2]
    short = 0
    for person in (
        star,
        fan,
        service.stranger(),
        service.anybody,
        Person(service.app, "", {"Authorization": "Bearer x"}),
    ):
        for path in paths(star.id, fan.id):
            ordinary = await ask(person, path, short=False, monkeypatch=monkeypatch)
            quick = await ask(person, path, short=True, monkeypatch=monkeypatch)
            assert shown(quick) == shown(ordinary), path
            short += quick.status_code == 200
    assert short > 100


async def test_commands_end_the_same_both_ways(
    service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes of a follow, with and without a key, by those who may and those who may not."""
    star = crowd[0].id
    told: list[list[Any]] = []
    for short in (False, True):
        with monkeypatch.context() as patched:
            if not short:
                patched.setattr(v1_express, "command", nobody)
            keys = [{}, {"Idempotency-Key": f"key-{short}"}, {"Idempotency-Key": "x" * 300}, {"Content-Length": "0"}]
            ann, new, guest = await service.person("ann"), service.stranger(), service.stranger(role="guest")
            people = [
                ann,
                new,
                guest,
                service.anybody,
                service.as_(star),
                Person(service.app, "", {"Authorization": "x"}),
            ]
            told.append([])
            for person in people:
                for who in (star, "me", "nobody", "a.b", f"{star}/", ""):
                    for method in ("POST", "POST", "DELETE", "DELETE", "PATCH"):
                        for headers in keys:
                            answer = await person.request(method, f"/v1/users/{who}/follow", headers=headers)
                            told[-1].append((method, who, outcome(answer, ann.id, new.id)))
            bodies = [await ann.post(f"/v1/users/{star}/follow", content=body) for body in (b"x", b"{}", b"x" * 70_000)]
            told[-1].append([outcome(answer, ann.id) for answer in bodies])
    assert told[0] == told[1]
    assert {entry[2][0] for entry in told[0][:-1]} >= {201, 204, 400, 401, 403, 404, 405, 409}


def outcome(answer: httpx.Response, *ids: str) -> tuple[int, list[str], str]:
    """What a client sees of a command's answer, but for times, positions and who sent it."""
    text = re.sub(r"20\d\d-[0-9T:-]+Z", "then", answer.text)
    for id_ in ids:
        text = text.replace(id_, "him")
    return answer.status_code, sorted(answer.headers), text


async def test_the_short_way_is_taken(service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparison would say nothing: here the ordinary way is cut."""
    star, fan = crowd[:2]
    hot = [f"/v1/users/{star.id}/{call}" for call in ("follow-status", "followers?page=1&per_page=2", "following")]
    hot.append(f"/kraken/channels/{star.id}/follows?limit=2")
    before = [(await fan.get(path)).content for path in hot]

    async def cut(*arguments: Any) -> None:
        raise AssertionError("the ordinary way was taken")

    monkeypatch.setattr("litestar.Litestar.__call__", cut)
    assert [(await fan.get(path)).content for path in hot] == before
    with pytest.raises(AssertionError, match="ordinary"):
        await ask(fan, hot[0], short=False, monkeypatch=monkeypatch)


async def test_a_walk_by_cursor(service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, each by both ways."""
    path, pages = f"/kraken/channels/{crowd[0].id}/follows?limit=1", 0
    while True:
        ordinary = await ask(service.anybody, path, short=False, monkeypatch=monkeypatch)
        quick = await ask(service.anybody, path, short=True, monkeypatch=monkeypatch)
        assert shown(quick) == shown(ordinary)
        if not quick.json()["follows"]:
            break
        pages += 1
        path = quick.json()["_links"]["next"]
    assert pages == 4


async def test_a_login_that_has_gone_to_another_is_not_remembered(service: InProcess, crowd: list[Person]) -> None:
    """It is asked again with every page."""
    star, fan = crowd[:2]
    address = f"/kraken/channels/{star.id}/follows"
    for _ in range(2):
        assert (await service.anybody.get(address)).json()["_total"] == 4
    await service.platform.put(f"/v1/users/{star.id}", json={"username": f"was-{star.id}"})
    assert (await service.anybody.get(address)).status_code == 404
    await service.platform.put(f"/v1/users/{fan.id}", json={"username": star.id})
    assert (await service.anybody.get(address)).json()["_total"] == 1


async def test_a_new_name_is_in_the_lists_at_once(service: InProcess, crowd: list[Person]) -> None:
    """Who changed it has waited for the views, and with them for the word that it changed."""
    star, fan = crowd[:2]
    for number in range(5):
        name = f"number {number}"
        await service.platform.put(f"/v1/users/{fan.id}", json={"display_name": name})
        found = (await star.get(f"/v1/users/{star.id}/followers")).json()["data"]
        assert name in [row["display_name"] for row in found]
        found = (await star.get(f"/kraken/channels/{star.id}/follows")).json()["follows"]
        assert name in [row["user"]["display_name"] for row in found]


async def test_a_view_that_is_behind_is_left_to_the_ordinary_way(service: InProcess, crowd: list[Person]) -> None:
    """Whether the caller says himself how far it must be, or another process has left it for him: never too old."""
    star, fan = crowd[:2]
    address = f"/v1/users/{star.id}/followers"
    assert (await fan.get(address)).status_code == 200
    assert (await fan.get(address, headers={"Follow-Position": "1"})).status_code == 200
    far = {"Follow-Position": str(2**62)}
    assert (await fan.get(address, headers=far)).status_code == 503
    assert (await fan.get(address, headers={"Follow-Position": "x"})).status_code == 400
    await service.parts.store.call("SET", position_of(fan.id), 2**62, "EX", 60)
    assert (await fan.get(address)).status_code == 503
    await service.parts.store.call("DEL", position_of(fan.id))
    assert (await fan.get(address)).status_code == 200


async def test_many_at_once_get_each_their_own(service: InProcess, crowd: list[Person]) -> None:
    """They share round trips, not answers."""
    star = crowd[0]
    answers = await asyncio.gather(
        *[person.get(f"/v1/users/{star.id}/follow-status") for _ in range(20) for person in crowd]
    )
    assert [answer.json()["is_following"] for answer in answers] == [False, True, True, True, True] * 20
