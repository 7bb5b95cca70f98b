"""A hot call gives the same answer, to the last byte, whether the middleware's table or the router dispatches it."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from commands.log.looks import Mark
from projections.client.client import RedisClient
from projections.keys import View
from queries.reader_limits import ReaderLimits
from tests.support.in_process import InProcess, Person, in_process, soon
from tests.support.packed_commands import unpacked

MOVING = {"x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset", "date"}


async def ask(person: Person, path: str, *, routed: bool, monkeypatch: pytest.MonkeyPatch) -> httpx.Response:
    """Ask with the router or without it."""
    with monkeypatch.context() as patched:
        if routed:
            send_all_to_router(patched)
        return await person.get(path)


def send_all_to_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both dialects find no hot call."""
    monkeypatch.setattr("api.v1.middleware.find_v1_call", lambda *_: None)
    monkeypatch.setattr("api.kraken.middleware.find_kraken_call", lambda *_: None)


def shown(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Return what a client sees of an answer, but for what differs from request to request."""
    headers = {name: value for name, value in answer.headers.items() if name not in MOVING}
    if answer.status_code == 429:
        del headers["content-length"]
    return answer.status_code, headers, re.sub(rb"\d+ s\b", b"N s", answer.content)


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
    return [star, *others]


def paths(star: str, fan: str) -> list[str]:
    """Return paths of hot reads, and paths that look like them."""
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


async def test_reads_answer_the_same_with_and_without_the_router(
    service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain hot reads, requests that only look like them, errors; for known, unknown, invalid and missing callers."""
    star, fan = crowd[:2]
    successes = 0
    for person in (
        star,
        fan,
        service.stranger(),
        service.anybody,
        Person(service.app, "", {"Authorization": "Bearer x"}),
    ):
        for path in paths(star.id, fan.id):
            routed = await ask(person, path, routed=True, monkeypatch=monkeypatch)
            direct = await ask(person, path, routed=False, monkeypatch=monkeypatch)
            assert shown(direct) == shown(routed), path
            successes += direct.status_code == 200
    assert successes > 100


async def test_commands_answer_the_same_with_and_without_the_router(
    service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follow and unfollow, with and without a key, by callers with and without the right to."""
    star = crowd[0].id
    answers: list[list[Any]] = []
    for routed in (True, False):
        with monkeypatch.context() as patched:
            if routed:
                send_all_to_router(patched)
            keys = [{}, {"Idempotency-Key": f"key-{routed}"}, {"Idempotency-Key": "x" * 300}, {"Content-Length": "0"}]
            ann, new, guest = await service.person("ann"), service.stranger(), service.stranger(role="guest")
            people = [
                ann,
                new,
                guest,
                service.anybody,
                service.as_(star),
                Person(service.app, "", {"Authorization": "x"}),
            ]
            answers.append([])
            for person in people:
                for who in (star, "me", "nobody", "a.b", f"{star}/", ""):
                    for method in ("POST", "POST", "DELETE", "DELETE", "PATCH"):
                        for headers in keys:
                            answer = await person.request(method, f"/v1/users/{who}/follow", headers=headers)
                            answers[-1].append((method, who, outcome(answer, ann.id, new.id)))
            bodies = [await ann.post(f"/v1/users/{star}/follow", content=body) for body in (b"x", b"{}", b"x" * 70_000)]
            answers[-1].append([outcome(answer, ann.id) for answer in bodies])
    assert answers[0] == answers[1]
    assert {entry[2][0] for entry in answers[0][:-1]} >= {201, 204, 400, 401, 403, 404, 405, 409}


def outcome(answer: httpx.Response, *ids: str) -> tuple[int, list[str], str]:
    """Return what a client sees of a command's answer, but for times, positions and the sender."""
    text = re.sub(r"20\d\d-[0-9T:-]+Z", "then", answer.text)
    for id_ in ids:
        text = text.replace(id_, "him")
    return answer.status_code, sorted(answer.headers), text


async def test_plain_hot_calls_skip_the_router(
    service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the comparison would show nothing: here the router is cut."""
    star, fan = crowd[:2]
    hot = [f"/v1/users/{star.id}/{call}" for call in ("follow-status", "followers?page=1&per_page=2", "following")]
    hot += ["/v1/users/nobody/follow-status", f"/kraken/channels/{star.id}/follows?limit=2"]
    hot.append("/kraken/channels/nobody/follows")
    before = [(await fan.get(path)).content for path in hot]
    new = await service.person()

    async def cut(*arguments: Any) -> None:
        raise AssertionError("the router was called")

    monkeypatch.setattr("litestar.Litestar.__call__", cut)
    assert [(await fan.get(path)).content for path in hot] == before
    assert [(await new.follow(star)).status_code, (await new.unfollow(star)).status_code] == [201, 204]
    with pytest.raises(AssertionError, match="router"):
        await ask(fan, hot[0], routed=True, monkeypatch=monkeypatch)


async def test_rate_limited_calls_answer_the_same_with_and_without_the_router(
    own_settings: dict[str, str], keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"FOLLOWS_RATE_LIMIT": "2", "FOLLOWS_RATE_LIMIT_ADDRESS": "2"}
    async with in_process({**own_settings, **limits}, keys) as service:
        star = await service.person()
        for path in (f"/v1/users/{star.id}/followers", f"/kraken/channels/{star.id}/follows"):
            caller = service.stranger() if path.startswith("/v1") else service.anybody

            async def is_limited(caller: Person = caller, path: str = path) -> bool:
                return (await caller.get(path)).status_code == 429

            await soon(is_limited)
            routed = await ask(caller, path, routed=True, monkeypatch=monkeypatch)
            direct = await ask(caller, path, routed=False, monkeypatch=monkeypatch)
            for answer in (routed, direct):
                assert 0 < int(answer.headers.pop("retry-after")) <= 60
            assert direct.status_code == 429 and shown(direct) == shown(routed)


async def test_walk_by_cursor_answers_the_same_with_and_without_the_router(
    service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pages = f"/kraken/channels/{crowd[0].id}/follows?limit=1", 0
    while True:
        routed = await ask(service.anybody, path, routed=True, monkeypatch=monkeypatch)
        direct = await ask(service.anybody, path, routed=False, monkeypatch=monkeypatch)
        assert shown(direct) == shown(routed)
        if not direct.json()["follows"]:
            break
        pages += 1
        path = direct.json()["_links"]["next"]
    assert pages == 4


class SentCommands:
    """The commands that the application sends to Redis for one request; ``after_a_reply`` are not in its first round
    trip."""

    def __init__(self, redis: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[tuple[Any, ...]] = []
        self.after_a_reply: list[tuple[Any, ...]] = []
        self._replies: list[asyncio.Future[Any]] = []
        call, batch = redis.call, redis.batch_packed
        monkeypatch.setattr(redis, "call", lambda *command: self._record([command], call(*command)))
        monkeypatch.setattr(
            redis, "batch_packed", lambda packed, replies: self._record(unpacked(packed), batch(packed, replies))
        )

    def _record(self, commands: Sequence[tuple[Any, ...]], reply: asyncio.Future[Any]) -> asyncio.Future[Any]:
        if any(earlier.done() for earlier in self._replies):
            self.after_a_reply += commands
        self.all += commands
        self._replies.append(reply)
        return reply


@pytest.fixture
async def view(service: InProcess, crowd: list[Person], monkeypatch: pytest.MonkeyPatch) -> View:
    """The live view; the application does not read again which one that is."""
    monkeypatch.setattr(service.services.reader, "limits", ReaderLimits(view_age_max_s=3600))
    monkeypatch.setattr(
        service.services.reader, "_view_until", 0.0
    )  # one read before would end in the middle of a test
    assert service.services.reader.last_view is not None
    return service.services.reader.last_view


def of_count(commands: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the commands of every request: the caller's count."""
    return [command for command in commands if command[0] in ("INCRBY", "EXPIRE")]


async def test_reads_of_cached_users_take_one_round_trip(service: InProcess, crowd: list[Person], view: View) -> None:
    star, fan = crowd[:2]
    hot = [f"/v1/users/{star.id}/{call}" for call in ("follow-status", "followers", "following")]
    for path in [*hot, f"/kraken/channels/{star.id}/follows"]:
        assert (await fan.get(path)).status_code == 200
        with pytest.MonkeyPatch.context() as patch:
            sent = SentCommands(service.services.redis, patch)
            assert (await fan.get(path)).status_code == 200
        assert of_count(sent.all) != sent.all and sent.after_a_reply == [], path


async def test_404_looks_the_user_up_once(service: InProcess, crowd: list[Person], view: View) -> None:
    fan = crowd[1]
    looked_up = {f"/v1/users/nobody/{call}": view.id("nobody") for call in ("follow-status", "followers", "following")}
    looked_up["/kraken/channels/nobody/follows"] = view.login("nobody")
    for path, key in looked_up.items():
        with pytest.MonkeyPatch.context() as patch:
            sent = SentCommands(service.services.redis, patch)
            assert (await fan.get(path)).status_code == 404
        assert [command for command in sent.all if key in command] == [("GET", key)], path


async def test_429_looks_no_user_up(own_settings: dict[str, str], keys: Path) -> None:
    """A caller above the limit costs Redis the count, whatever the path names."""
    limits = {"FOLLOWS_RATE_LIMIT": "1", "FOLLOWS_RATE_LIMIT_KRAKEN": "1"}
    async with in_process({**own_settings, **limits}, keys) as service:
        caller = service.stranger()

        async def is_limited() -> bool:
            calls = [await caller.get(path) for path in ("/v1/users/me/followers", "/kraken")]
            return [answer.status_code for answer in calls] == [429, 429]

        await soon(is_limited)
        calls = ("follow-status", "followers", "following")
        for path in [*(f"/v1/users/nobody/{call}" for call in calls), "/kraken/channels/nobody/follows"]:
            with pytest.MonkeyPatch.context() as patch:
                sent = SentCommands(service.services.redis, patch)
                assert (await caller.get(path)).status_code == 429
            assert sent.all == of_count(sent.all), path


async def test_page_after_login_changes_hands_is_of_its_new_user(service: InProcess, crowd: list[Person]) -> None:
    """The number of a login is checked with every page, also when the first user with that login was erased."""
    star, fan = crowd[:2]
    address = f"/kraken/channels/{star.id}/follows"
    for _ in range(2):
        assert (await service.anybody.get(address)).json()["_total"] == 4
    await service.platform.put(f"/v1/users/{star.id}", json={"username": f"was-{star.id}"})
    assert (await service.anybody.get(address)).status_code == 404
    await service.platform.put(f"/v1/users/{fan.id}", json={"username": star.id})
    assert (await service.anybody.get(address)).json()["_total"] == 1
    await service.platform.delete(f"/v1/users/{fan.id}")
    assert (await service.anybody.get(address)).status_code == 404


async def test_list_after_name_changes_shows_new_name(service: InProcess, crowd: list[Person]) -> None:
    """The PUT waits for the views, and so for the message that makes processes drop the cached profile."""
    star, fan = crowd[:2]
    for number in range(5):
        name = f"number {number}"
        await service.platform.put(f"/v1/users/{fan.id}", json={"display_name": name})
        found = (await star.get(f"/v1/users/{star.id}/followers")).json()["data"]
        assert name in [row["display_name"] for row in found]
        found = (await star.get(f"/kraken/channels/{star.id}/follows")).json()["follows"]
        assert name in [row["user"]["display_name"] for row in found]


async def test_read_of_view_behind_caller_s_position_returns_503(service: InProcess, crowd: list[Person]) -> None:
    """The position may be in the caller's header, or found in the log. Beyond the log there is nothing to wait for."""
    star, fan = crowd[:2]
    address = f"/v1/users/{star.id}/followers"
    assert (await fan.get(address)).status_code == 200
    assert (await fan.get(address, headers={"Follow-Position": "1"})).status_code == 200
    far = await fan.get(address, headers={"Follow-Position": str(2**62)})
    assert far.status_code == 200 and 0 < int(far.headers["follow-position"]) < 2**62
    assert (await fan.get(address, headers={"Follow-Position": "x"})).status_code == 400
    number = await service.services.directory.number(star.id)
    service.services.tail.enter([Mark(fan.id, number, 2**62)])
    assert (await fan.get(address)).status_code == 503
    assert (await star.get(address)).status_code == 200


async def test_concurrent_reads_return_each_caller_s_own_answer(service: InProcess, crowd: list[Person]) -> None:
    """Concurrent reads share round trips, not answers."""
    star = crowd[0]
    answers = await asyncio.gather(
        *[person.get(f"/v1/users/{star.id}/follow-status") for _ in range(20) for person in crowd]
    )
    assert [answer.json()["is_following"] for answer in answers] == [False, True, True, True, True] * 20
