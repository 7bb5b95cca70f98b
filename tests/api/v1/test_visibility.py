"""Promise P5 over HTTP: the caller of a follow sees it at once, with no special header, and so do all other callers."""

import asyncio
import itertools
from pathlib import Path
from uuid import uuid4

from commands.errors import Unconfirmed
from tests.support.in_process import InProcess, Person, in_process, refusal, running_loop
from tests.support.waiting import until


async def test_follow_is_visible_to_all_callers_after_201(service: InProcess) -> None:
    """A caller without commands has no position to wait for: the follow itself waited for the views."""
    ann, bob = await service.people(2)
    anybody = service.stranger(role="guest")
    for _ in range(10):
        await ann.follow(bob)
        assert (await anybody.get(f"/v1/users/{bob.id}/followers")).json()["pagination"]["total"] == 1
        assert (await anybody.get(f"/v1/users/{ann.id}")).json()["following"] == 1
        await ann.unfollow(bob)
        assert (await anybody.get(f"/v1/users/{bob.id}/followers")).json()["pagination"]["total"] == 0
        assert (await anybody.get(f"/v1/users/{ann.id}")).json()["following"] == 0


async def test_concurrent_callers_see_their_own_follows(service: InProcess) -> None:
    people = await service.people(12)

    async def follow_and_look(one: Person, other: Person) -> None:
        assert (await one.follow(other)).status_code == 201
        assert await one.follows(other)
        following = (await one.get("/v1/users/me/following?per_page=100")).json()["data"]
        assert other.id in [row["id"] for row in following]

    await asyncio.gather(*(follow_and_look(one, other) for one, other in itertools.permutations(people, 2)))


async def test_new_user_is_visible_to_all_callers_after_201(service: InProcess) -> None:
    star, anybody = await service.person(), service.stranger()
    for _ in range(10):
        new = service.stranger()
        await new.follow(star)
        assert (await anybody.get(f"/v1/users/{new.id}/following")).json()["pagination"]["total"] == 1


async def test_caller_of_late_command_reads_it_or_gets_503(own_settings: dict[str, str], keys: Path) -> None:
    """Without a worker: 201, then 503 rather than "not following". With a worker again: the follow."""
    settings = {**own_settings, "FOLLOWS_VISIBLE_WAIT_MS": "20"}
    async with in_process(settings, keys) as service:
        await service.person("bob")  # the view is built
    async with in_process(settings, keys, with_loop=False) as service:
        ann, eve = service.stranger("ann"), service.stranger("eve")
        made = await service.platform.put("/v1/users/bob", json={"display_name": "Bob"})
        assert made.status_code == 201
        assert (made.json()["display_name"], made.json()["followers"]) == ("Bob", None)
        assert (await ann.post("/v1/users/bob/follow")).status_code == 201
        for path in ("bob/follow-status", "me/following"):
            answer = await ann.get(f"/v1/users/{path}")
            assert refusal(answer) == (503, "unavailable", None), path
        assert (await eve.get("/v1/users/me/following")).status_code == 200  # no command of hers to wait for
        assert refusal(await ann.post("/v1/users/bob/follow"))[0] == 409
        async with running_loop(settings):
            await service.caught_up()
            assert await ann.follows(service.as_("bob"))
            assert [row["id"] for row in (await eve.get("/v1/users/bob/followers")).json()["data"]] == [ann.id]


async def test_caller_of_late_command_reads_it_in_another_process(own_settings: dict[str, str], keys: Path) -> None:
    """The other process finds the command in the log, before its caller is answered."""
    settings = {**own_settings, "FOLLOWS_VISIBLE_WAIT_MS": "1500"}
    async with in_process(settings, keys) as service:
        await service.platform.put("/v1/users/bob", json={})
        await service.caught_up()
    async with in_process(settings, keys, with_loop=False) as one, in_process(settings, keys, with_loop=False) as other:
        assert (await one.as_("ann").post("/v1/users/bob/follow")).status_code == 201
        assert refusal(await other.as_("ann").get("/v1/users/bob/follow-status"))[0] == 503
        assert not await other.as_("eve").follows(other.as_("bob"))


async def test_command_that_is_not_confirmed_in_time_is_503_and_done(own_settings: dict[str, str], keys: Path) -> None:
    """Without a worker a wait of a second ends before every process has looked. A repeat gets the first answer."""
    settings = {**own_settings, "FOLLOWS_VISIBLE_WAIT_MS": "1000"}
    async with in_process(settings, keys) as service:
        await service.platform.put("/v1/users/bob", json={})
        await service.caught_up()
    async with in_process(settings, keys, with_loop=False) as service:
        ann, key = service.as_("ann"), {"Idempotency-Key": uuid4().hex}
        answer = await ann.post("/v1/users/bob/follow", headers=key)
        assert refusal(answer) == (503, "unavailable", None) and int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["message"] == str(Unconfirmed())

        async def repeat_has_its_answer() -> bool:
            again = await ann.post("/v1/users/bob/follow", headers=key)
            assert again.status_code in (201, 503), again.text
            return again.status_code == 201

        async with running_loop(settings):
            await until(repeat_has_its_answer)
            assert await ann.follows(service.as_("bob"))


async def test_read_from_redis_that_lost_its_tail_waits_or_returns_503(service: InProcess) -> None:
    """Redis returns as it was before the follow. Until it is repaired reads wait or return 503, never "no"."""
    ann, bob, onlooker = await service.people(3)
    await service.caught_up()
    redis = service.services.redis
    view = await service.services.reader.view()
    saved = {key: await redis.call("DUMP", key) async for keys in redis.scan(view.pattern(), 1000) for key in keys}
    assert (await ann.follow(bob)).status_code == 201
    await asyncio.gather(*[redis.call("RESTORE", key, 0, value, "REPLACE") for key, value in saved.items()])
    await asyncio.gather(
        *[
            redis.call("DEL", key)
            for key in (view.following(await number(service, ann)), view.followers(await number(service, bob)))
        ]
    )
    for person in itertools.cycle((ann, onlooker)):
        path = f"/v1/users/{bob.id}/" + ("follow-status" if person is ann else "followers")
        answer = await person.get(path)
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200 and person is ann:
            assert answer.json()["is_following"] is True
        elif answer.status_code == 200:
            assert [row["id"] for row in answer.json()["data"]] == [ann.id]
            break


async def number(service: InProcess, person: Person) -> int:
    """Return the user's number."""
    return await service.services.directory.number(person.id)
