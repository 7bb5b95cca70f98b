"""Promise P5 over HTTP: who follows and then reads sees it, with no special header; and so does everybody else."""

import asyncio
import itertools
from pathlib import Path

from tests.api.in_process import InProcess, Person, draining, in_process, refusal


async def test_after_the_201_everybody_sees_it(service: InProcess) -> None:
    """Somebody who did nothing himself has no position to wait for: the command itself waited for the views."""
    ann, bob = await service.people(2)
    anybody = service.stranger(role="guest")
    for _ in range(10):
        await ann.follow(bob)
        assert (await anybody.get(f"/v1/users/{bob.id}/followers")).json()["pagination"]["total"] == 1
        assert (await anybody.get(f"/v1/users/{ann.id}")).json()["following"] == 1
        await ann.unfollow(bob)
        assert (await anybody.get(f"/v1/users/{bob.id}/followers")).json()["pagination"]["total"] == 0
        assert (await anybody.get(f"/v1/users/{ann.id}")).json()["following"] == 0


async def test_many_at_once_each_see_their_own(service: InProcess) -> None:
    people = await service.people(12)

    async def follow_and_look(one: Person, other: Person) -> None:
        assert (await one.follow(other)).status_code == 201
        assert await one.follows(other)
        following = (await one.get("/v1/users/me/following?per_page=100")).json()["data"]
        assert other.id in [row["id"] for row in following]

    await asyncio.gather(*(follow_and_look(one, other) for one, other in itertools.permutations(people, 2)))


async def test_a_new_user_is_found_by_everybody_at_once(service: InProcess) -> None:
    star, anybody = await service.person(), service.stranger()
    for _ in range(10):
        new = service.stranger()
        await new.follow(star)
        assert (await anybody.get(f"/v1/users/{new.id}/following")).json()["pagination"]["total"] == 1


async def test_who_acted_is_never_told_less_than_he_knows(own_settings: dict[str, str], keys: Path) -> None:
    """While nobody projects: 201, then 503 rather than "not following"; and when the drain is back, the truth."""
    settings = {**own_settings, "FOLLOWS_VISIBLE_WAIT_MS": "20"}
    async with in_process(settings, keys) as service:
        await service.person("bob")  # the view is built
    async with in_process(settings, keys, drain=False) as service:
        ann, eve = service.stranger("ann"), service.stranger("eve")
        made = await service.platform.put("/v1/users/bob", json={"display_name": "Bob"})
        assert made.status_code == 201
        assert (made.json()["display_name"], made.json()["followers"]) == ("Bob", None)
        assert (await ann.post("/v1/users/bob/follow")).status_code == 201
        for path in ("bob/follow-status", "me/following"):
            answer = await ann.get(f"/v1/users/{path}")
            assert refusal(answer) == (503, "unavailable", None), path
        assert (await eve.get("/v1/users/me/following")).status_code == 200  # who did nothing reads what there is
        assert refusal(await ann.post("/v1/users/bob/follow"))[0] == 409
        async with draining(settings):
            await service.drained()
            assert await ann.follows(service.as_("bob"))
            assert [row["id"] for row in (await eve.get("/v1/users/bob/followers")).json()["data"]] == [ann.id]


async def test_it_holds_in_another_process_too(own_settings: dict[str, str], keys: Path) -> None:
    """The position that a command leaves for its caller is in Redis, where the other process finds it."""
    settings = {**own_settings, "FOLLOWS_VISIBLE_WAIT_MS": "0"}
    async with in_process(settings, keys) as service:
        await service.platform.put("/v1/users/bob", json={})
        await service.drained()
    async with in_process(settings, keys, drain=False) as one, in_process(settings, keys, drain=False) as other:
        assert (await one.as_("ann").post("/v1/users/bob/follow")).status_code == 201
        assert refusal(await other.as_("ann").get("/v1/users/bob/follow-status"))[0] == 503
        assert not await other.as_("eve").follows(other.as_("bob"))


async def test_a_redis_that_lost_its_tail_is_not_believed(service: InProcess) -> None:
    """It comes back as it was before the follow: whoever asks meanwhile is told to come back, or waits; never "no"."""
    ann, bob, onlooker = await service.people(3)
    await service.drained()
    store = service.parts.store
    view = await service.parts.reader.view()
    saved = {key: await store.call("DUMP", key) async for keys in store.scan(view.pattern(), 1000) for key in keys}
    assert (await ann.follow(bob)).status_code == 201
    await asyncio.gather(*[store.call("RESTORE", key, 0, value, "REPLACE") for key, value in saved.items()])
    await asyncio.gather(
        *[
            store.call("DEL", key)
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
    """The number that the views have for somebody."""
    return await service.parts.directory.number(person.id)
