"""Idempotency-Key on every command: the first answer again, whatever has happened since; 409 for another command."""

from uuid import uuid4

import pytest

from tests.api.in_process import InProcess, refusal


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex}


async def test_a_repeated_follow_gets_the_first_answer(service: InProcess) -> None:
    ann, bob = await service.people(2)
    once = key()
    first = await ann.follow(bob, headers=once)
    again = await ann.follow(bob, headers=once)
    assert (again.status_code, again.text) == (201, first.text)
    assert again.headers["follow-position"] == first.headers["follow-position"]


async def test_also_when_it_has_ended_since(service: InProcess) -> None:
    ann, bob = await service.people(2)
    once = key()
    first = await ann.follow(bob, headers=once)
    await ann.unfollow(bob)
    assert (await ann.follow(bob, headers=once)).text == first.text
    assert not await ann.follows(bob)


async def test_a_repeated_unfollow_is_204_again(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    once = key()
    assert (await ann.unfollow(bob, headers=once)).status_code == 204
    await ann.follow(bob)
    assert (await ann.unfollow(bob, headers=once)).status_code == 204
    assert await ann.follows(bob)


async def test_a_refusal_is_repeated_too(service: InProcess) -> None:
    ann, bob = await service.people(2)
    early, late = key(), key()
    first = await ann.unfollow(bob, headers=early)
    await ann.follow(bob)
    again = await ann.unfollow(bob, headers=early)
    assert (again.status_code, again.text) == (404, first.text)
    conflict = await ann.follow(bob, headers=late)
    await ann.unfollow(bob)
    assert (await ann.follow(bob, headers=late)).text == conflict.text


async def test_the_same_key_for_another_command_is_409(service: InProcess) -> None:
    ann, bob, cat = await service.people(3)
    once = key()
    await ann.follow(bob, headers=once)
    for answer in (await ann.follow(cat, headers=once), await ann.unfollow(bob, headers=once)):
        assert refusal(answer) == (409, "conflict", None)
    assert await ann.follows(bob) and not await ann.follows(cat)


async def test_another_callers_same_key_is_another_key(service: InProcess) -> None:
    ann, bob, cat = await service.people(3)
    once = key()
    assert (await ann.follow(cat, headers=once)).status_code == 201
    assert (await bob.follow(cat, headers=once)).json()["follower_id"] == bob.id
    assert await ann.follows(cat) and await bob.follows(cat)


async def test_without_a_key_nothing_is_remembered(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    assert (await ann.follow(bob)).status_code == 409


@pytest.mark.parametrize("bad", ["", "x" * 256, b"\xc3\xa9", "a\tb"])
async def test_a_key_that_cannot_be_read_is_400(service: InProcess, bad: str | bytes) -> None:
    ann, bob = await service.people(2)
    raw = bad if isinstance(bad, bytes) else bad.encode()
    answer = await ann.follow(bob, headers={b"Idempotency-Key": raw})
    assert refusal(answer)[:2] == (400, "validation_error")
    assert list(answer.json()["error"]["details"]) == ["Idempotency-Key"]
    assert not await ann.follows(bob)


# ---- the directory calls


async def test_a_repeated_creation_is_201_again(service: InProcess) -> None:
    platform, somebody, once = service.platform, service.stranger(), key()
    path = f"/v1/users/{somebody.id}"
    first = await platform.put(path, json={"display_name": "Some"}, headers=once)
    again = await platform.put(path, json={"display_name": "Some"}, headers=once)
    assert (first.status_code, again.status_code) == (201, 201)
    assert (await platform.put(path, json={"display_name": "Some"})).status_code == 200


async def test_a_repeated_change_does_not_undo_a_later_one(service: InProcess) -> None:
    platform, ann, once = service.platform, await service.person(), key()
    path = f"/v1/users/{ann.id}"
    await platform.put(path, json={"bio": "one"}, headers=once)
    await platform.put(path, json={"bio": "two"})
    assert (await platform.put(path, json={"bio": "one"}, headers=once)).status_code == 200
    assert (await platform.get(path)).json()["bio"] == "two"


async def test_another_body_under_the_same_key_is_409(service: InProcess) -> None:
    platform, ann, once = service.platform, await service.person(), key()
    path = f"/v1/users/{ann.id}"
    await platform.put(path, json={"bio": "one"}, headers=once)
    assert refusal(await platform.put(path, json={"bio": "two"}, headers=once))[:2] == (409, "conflict")
    assert refusal(await platform.delete(path, headers=once))[:2] == (409, "conflict")
    assert refusal(await platform.put(f"{path}/broadcast", json={}, headers=once))[:2] == (409, "conflict")


async def test_a_repeated_refusal_of_a_taken_name_stays_one(service: InProcess) -> None:
    platform, once = service.platform, key()
    holder, ann = await service.person(username="elsie"), await service.person()
    first = await platform.put(f"/v1/users/{ann.id}", json={"username": "elsie"}, headers=once)
    await platform.put(f"/v1/users/{holder.id}", json={"username": "elsie-2"})
    again = await platform.put(f"/v1/users/{ann.id}", json={"username": "elsie"}, headers=once)
    assert (first.status_code, again.text) == (409, first.text)


async def test_a_repeated_erasure_is_204_again(service: InProcess) -> None:
    platform, ann, once = service.platform, await service.person(), key()
    for _ in range(2):
        assert (await platform.delete(f"/v1/users/{ann.id}", headers=once)).status_code == 204
    assert refusal(await platform.delete(f"/v1/users/{ann.id}"))[0] == 404


async def test_a_repeated_broadcast_does_not_start_an_ended_one(service: InProcess) -> None:
    platform, ann, begin, end = service.platform, await service.person(), key(), key()
    path = f"/v1/users/{ann.id}/broadcast"
    await platform.put(path, json={"game": "Chess"}, headers=begin)
    assert (await platform.delete(path, headers=end)).status_code == 204
    assert (await platform.put(path, json={"game": "Chess"}, headers=begin)).status_code == 204
    assert (await platform.get(f"/v1/users/{ann.id}")).json()["broadcast"] is None
    assert (await platform.delete(path, headers=end)).status_code == 204
