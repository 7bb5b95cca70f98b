"""Idempotency-Key on every command: the first answer again, whatever has happened since; 409 for another command."""

from uuid import uuid4

import pytest

from tests.support.in_process import InProcess, refusal


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex}


async def test_repeated_follow_with_key_returns_first_answer(service: InProcess) -> None:
    ann, bob = await service.people(2)
    once = key()
    first = await ann.follow(bob, headers=once)
    again = await ann.follow(bob, headers=once)
    assert (again.status_code, again.text) == (201, first.text)
    assert again.headers["follow-position"] == first.headers["follow-position"]


async def test_repeated_follow_with_key_after_unfollow_returns_first_answer(service: InProcess) -> None:
    ann, bob = await service.people(2)
    once = key()
    first = await ann.follow(bob, headers=once)
    await ann.unfollow(bob)
    assert (await ann.follow(bob, headers=once)).text == first.text
    assert not await ann.follows(bob)


async def test_repeated_unfollow_with_key_returns_204(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    once = key()
    assert (await ann.unfollow(bob, headers=once)).status_code == 204
    await ann.follow(bob)
    assert (await ann.unfollow(bob, headers=once)).status_code == 204
    assert await ann.follows(bob)


async def test_repeated_follow_with_key_after_erasure_of_target_returns_first_answer(service: InProcess) -> None:
    """Also in a process that has not cached the target's number; without the key the target is not found."""
    ann, bob = await service.people(2)
    once = key()
    first = await ann.follow(bob, headers=once)
    await service.platform.delete(f"/v1/users/{bob.id}")
    service.services.directory.clear_cache()
    again = await ann.follow(bob, headers=once)
    assert (again.status_code, again.text) == (201, first.text)
    assert [refusal(await call(bob))[0] for call in (ann.follow, ann.unfollow)] == [404, 404]


async def test_repeated_refused_command_with_key_returns_first_error(service: InProcess) -> None:
    ann, bob = await service.people(2)
    early, late = key(), key()
    first = await ann.unfollow(bob, headers=early)
    await ann.follow(bob)
    again = await ann.unfollow(bob, headers=early)
    assert (again.status_code, again.text) == (404, first.text)
    conflict = await ann.follow(bob, headers=late)
    await ann.unfollow(bob)
    assert (await ann.follow(bob, headers=late)).text == conflict.text


async def test_key_of_another_command_returns_409(service: InProcess) -> None:
    ann, bob, cat = await service.people(3)
    once = key()
    await ann.follow(bob, headers=once)
    for answer in (await ann.follow(cat, headers=once), await ann.unfollow(bob, headers=once)):
        assert refusal(answer) == (409, "conflict", None)
    assert await ann.follows(bob) and not await ann.follows(cat)


async def test_keys_of_two_callers_are_independent(service: InProcess) -> None:
    ann, bob, cat = await service.people(3)
    once = key()
    assert (await ann.follow(cat, headers=once)).status_code == 201
    assert (await bob.follow(cat, headers=once)).json()["follower_id"] == bob.id
    assert await ann.follows(cat) and await bob.follows(cat)


async def test_repeated_command_without_key_is_decided_again(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    assert (await ann.follow(bob)).status_code == 409


@pytest.mark.parametrize("bad", ["", "x" * 256, b"\xc3\xa9", "a\tb"])
async def test_invalid_key_returns_400(service: InProcess, bad: str | bytes) -> None:
    ann, bob = await service.people(2)
    raw = bad if isinstance(bad, bytes) else bad.encode()
    answer = await ann.follow(bob, headers={b"Idempotency-Key": raw})
    assert refusal(answer)[:2] == (400, "validation_error")
    assert list(answer.json()["error"]["details"]) == ["Idempotency-Key"]
    assert not await ann.follows(bob)


# ---- the directory calls


async def test_repeated_creation_with_key_returns_201(service: InProcess) -> None:
    platform, new_user, once = service.platform, service.stranger(), key()
    path = f"/v1/users/{new_user.id}"
    first = await platform.put(path, json={"display_name": "Some"}, headers=once)
    again = await platform.put(path, json={"display_name": "Some"}, headers=once)
    assert (first.status_code, again.status_code) == (201, 201)
    assert (await platform.put(path, json={"display_name": "Some"})).status_code == 200


async def test_repeated_change_with_key_does_not_undo_later_change(service: InProcess) -> None:
    platform, ann, once = service.platform, await service.person(), key()
    path = f"/v1/users/{ann.id}"
    await platform.put(path, json={"bio": "one"}, headers=once)
    await platform.put(path, json={"bio": "two"})
    assert (await platform.put(path, json={"bio": "one"}, headers=once)).status_code == 200
    assert (await platform.get(path)).json()["bio"] == "two"


async def test_key_with_another_body_returns_409(service: InProcess) -> None:
    platform, ann, once = service.platform, await service.person(), key()
    path = f"/v1/users/{ann.id}"
    await platform.put(path, json={"bio": "one"}, headers=once)
    assert refusal(await platform.put(path, json={"bio": "two"}, headers=once))[:2] == (409, "conflict")
    assert refusal(await platform.delete(path, headers=once))[:2] == (409, "conflict")
    assert refusal(await platform.put(f"{path}/broadcast", json={}, headers=once))[:2] == (409, "conflict")


async def test_repeated_put_with_key_after_name_is_free_returns_first_409(service: InProcess) -> None:
    platform, once = service.platform, key()
    holder, ann = await service.person(username="elsie"), await service.person()
    first = await platform.put(f"/v1/users/{ann.id}", json={"username": "elsie"}, headers=once)
    await platform.put(f"/v1/users/{holder.id}", json={"username": "elsie-2"})
    again = await platform.put(f"/v1/users/{ann.id}", json={"username": "elsie"}, headers=once)
    assert (first.status_code, again.text) == (409, first.text)


async def test_repeated_erasure_with_key_returns_204(service: InProcess) -> None:
    platform, ann, once = service.platform, await service.person(), key()
    for _ in range(2):
        assert (await platform.delete(f"/v1/users/{ann.id}", headers=once)).status_code == 204
    assert refusal(await platform.delete(f"/v1/users/{ann.id}"))[0] == 404


async def test_repeated_broadcast_with_key_does_not_start_it_again(service: InProcess) -> None:
    platform, ann, begin, end = service.platform, await service.person(), key(), key()
    path = f"/v1/users/{ann.id}/broadcast"
    await platform.put(path, json={"game": "Chess"}, headers=begin)
    assert (await platform.delete(path, headers=end)).status_code == 204
    assert (await platform.put(path, json={"game": "Chess"}, headers=begin)).status_code == 204
    assert (await platform.get(f"/v1/users/{ann.id}")).json()["broadcast"] is None
    assert (await platform.delete(path, headers=end)).status_code == 204
