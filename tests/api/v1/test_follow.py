"""Follow, unfollow and status over HTTP: every answer of the documents, and the order in which a request is refused."""

import asyncio
import re

import pytest

from commands.directory import default_login
from commands.profiles import read_profiles
from tests.support.in_process import InProcess, refusal
from tests.support.v1_calls import CALLS

WIRE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def test_follow_returns_201_with_both_ids_and_time(service: InProcess) -> None:
    ann, bob = await service.people(2)
    answer = await ann.follow(bob)
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["follower_id", "followed_id", "created_at"]
    assert (body["follower_id"], body["followed_id"]) == (ann.id, bob.id)
    assert WIRE_TIME.fullmatch(body["created_at"])


async def test_time_of_follow_is_the_same_in_all_answers(service: InProcess) -> None:
    ann, bob = await service.people(2)
    created_at = (await ann.follow(bob)).json()["created_at"]
    status = await ann.get(f"/v1/users/{bob.id}/follow-status")
    assert status.text == f'{{"is_following":true,"followed_at":"{created_at}"}}'
    for path in (f"/v1/users/{bob.id}/followers", "/v1/users/me/following"):
        assert (await ann.get(path)).json()["data"][0]["followed_at"] == created_at


async def test_second_follow_returns_409(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    answer = await ann.follow(bob)
    assert refusal(answer) == (409, "conflict", None)
    assert answer.text == '{"error":{"code":"conflict","message":"already following this user","details":null}}'


async def test_concurrent_follows_return_one_201_and_409s(service: InProcess) -> None:
    ann, bob = await service.people(2)
    answers = await asyncio.gather(*(ann.follow(bob) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11


async def test_unfollow_returns_204_without_body(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    answer = await ann.unfollow(bob)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
    assert not await ann.follows(bob)


async def test_unfollow_without_follow_returns_404(service: InProcess) -> None:
    ann, bob = await service.people(2)
    assert refusal(await ann.unfollow(bob)) == (404, "not_found", None)
    await ann.follow(bob)
    await ann.unfollow(bob)
    assert refusal(await ann.unfollow(bob)) == (404, "not_found", None)


async def test_status_without_follow_is_false_and_null(service: InProcess) -> None:
    ann, bob = await service.people(2)
    answer = await ann.get(f"/v1/users/{bob.id}/follow-status")
    assert (answer.status_code, answer.text) == (200, '{"is_following":false,"followed_at":null}')


async def test_follow_is_in_one_direction(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    assert await ann.follows(bob) and not await bob.follows(ann)


async def test_follow_after_unfollow_has_new_time(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    await ann.unfollow(bob)
    assert (await ann.follow(bob)).status_code == 201
    assert await ann.follows(bob)


# ---- users that cannot be followed


async def test_follow_of_oneself_returns_400_by_id_and_by_me(service: InProcess) -> None:
    ann = await service.person()
    for path in (ann.id, "me"):
        answer = await ann.post(f"/v1/users/{path}/follow")
        assert refusal(answer) == (400, "validation_error", None)
        assert refusal(await ann.delete(f"/v1/users/{path}/follow")) == (400, "validation_error", None)


async def test_status_of_oneself_is_false(service: InProcess) -> None:
    ann = await service.person()
    answer = await ann.get("/v1/users/me/follow-status")
    assert answer.text == '{"is_following":false,"followed_at":null}'


@pytest.mark.parametrize(
    "id_",
    ["nobody", "x" * 65, "%00", "%ff", "a%00b", "%F0%9F%98%80", "a%20b", "%ED%A0%80", "..%2f", "%25", "*", "a'b"],
)
async def test_unknown_user_returns_404_for_any_id(service: InProcess, id_: str) -> None:
    ann = await service.person()
    for method, call in (("POST", "follow"), ("DELETE", "follow"), ("GET", "follow-status"), ("GET", "followers")):
        answer = await ann.request(method, f"/v1/users/{id_}/{call}")
        assert refusal(answer) == (404, "not_found", None), (method, call)
    answer = await ann.get(f"/v1/users/{id_}")
    assert refusal(answer) == (404, "not_found", None)


async def test_ids_are_opaque(service: InProcess) -> None:
    """The documents' own sample is not a valid ULID."""
    ann, sample = await service.person(), service.as_("01JN2XF5G6H7I8J9K0L1M2N3O4")
    await service.platform.put(f"/v1/users/{sample.id}", json={})
    assert (await ann.follow(sample)).json()["followed_id"] == "01JN2XF5G6H7I8J9K0L1M2N3O4"


async def test_ids_are_case_sensitive(service: InProcess) -> None:
    ann = await service.person()
    upper = service.as_(ann.id.upper())
    assert refusal(await ann.follow(upper))[0] == 404


# ---- callers and their rights


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_request_with_several_faults_returns_first_error_in_order(service: InProcess, method: str) -> None:
    """401 goes before 403, that before 400, that before 404."""
    anybody, guest, ann = service.anybody, service.stranger(role="guest"), await service.person()
    for path in (f"/v1/users/{ann.id}/follow", "/v1/users/nobody/follow", "/v1/users/me/follow"):
        assert refusal(await anybody.request(method, path))[:2] == (401, "unauthorized")
        assert refusal(await guest.request(method, path))[:2] == (403, "forbidden")
    assert refusal(await ann.request(method, "/v1/users/me/follow"))[0] == 400
    assert refusal(await ann.request(method, "/v1/users/nobody/follow"))[0] == 404


async def test_follow_of_oneself_by_unknown_caller_returns_400(service: InProcess) -> None:
    assert refusal(await service.stranger().post("/v1/users/me/follow"))[0] == 400


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Bearer a b", b"Bearer \xff", "OAuth x"]
)
async def test_every_call_without_token_returns_401(
    service: InProcess, method: str, path: str, authorization: str | bytes | None
) -> None:
    headers = {} if authorization is None else {b"Authorization": _raw(authorization)}
    answer = await service.anybody.request(method, path, headers=headers, content=b"no JSON")
    assert refusal(answer)[:2] == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == 'Bearer realm="follows"'


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


async def test_expired_token_returns_401(service: InProcess) -> None:
    late = service.stranger(exp=1_700_000_000, iat=1_600_000_000)
    assert refusal(await late.get("/v1/users/me/following"))[:2] == (401, "unauthorized")


async def test_authorization_scheme_is_case_insensitive(service: InProcess) -> None:
    ann = await service.person()
    headers = {"Authorization": f"bEaReR  {service.token(ann.id)}"}
    assert (await service.anybody.get("/v1/users/me/following", headers=headers)).status_code == 200


async def test_guest_may_read_and_not_follow(service: InProcess) -> None:
    ann, guest = await service.person(), service.stranger(role="guest")
    assert refusal(await guest.follow(ann)) == (403, "forbidden", None)
    assert refusal(await guest.unfollow(ann)) == (403, "forbidden", None)
    for path in (f"{ann.id}/follow-status", f"{ann.id}/followers", f"{ann.id}/following", "me/following", ann.id):
        assert (await guest.get(f"/v1/users/{path}")).status_code == 200, path


# ---- callers that the directory does not know


async def test_unknown_caller_is_registered_from_token_at_first_command(service: InProcess) -> None:
    bob = await service.person()
    cat = service.stranger(
        "cat", preferred_username="Cat-The-First", name="Cat", picture="https://a.test/cat.png", email="cat@a.test"
    )
    assert refusal(await bob.get(f"/v1/users/{cat.id}"))[0] == 404
    assert (await cat.follow(bob)).status_code == 201
    profile = (await bob.get(f"/v1/users/{cat.id}")).json()
    assert profile["username"] == "cat-the-first"
    assert (profile["display_name"], profile["avatar_url"]) == ("Cat", "https://a.test/cat.png")
    assert "email" not in profile and "cat@a.test" not in str(profile)
    assert (profile["followers"], profile["following"]) == (0, 1)


async def test_unknown_caller_with_taken_login_gets_another(service: InProcess) -> None:
    taken, bob = await service.person(username="dora"), await service.person()
    dora = service.stranger("dora", preferred_username="Dora")
    assert (await dora.follow(bob)).status_code == 201
    assert (await bob.get(f"/v1/users/{dora.id}")).json()["username"] == default_login(dora.id)
    assert (await bob.get(f"/v1/users/{taken.id}")).json()["username"] == "dora"


async def test_unknown_caller_with_odd_claims_is_registered(service: InProcess) -> None:
    """Claims that cannot be stored or shown are left out, and the follow succeeds."""
    bob = await service.person()
    odd = service.stranger(name="a\0b", email="x\0", picture="\0", preferred_username="no login!\n")
    assert (await odd.follow(bob)).status_code == 201
    profile = (await bob.get(f"/v1/users/{odd.id}")).json()
    assert (profile["username"], profile["avatar_url"]) == (odd.id, None)
    sly = service.stranger(name="a\nb", display_name="Sly", picture="javascript:alert(1)", email="x@a.test\r\nBcc: y")
    assert (await sly.follow(bob)).status_code == 201
    profile = (await bob.get(f"/v1/users/{sly.id}")).json()
    assert (profile["display_name"], profile["avatar_url"]) == ("Sly", None)  # each claim falls back to the next
    number = await service.services.directory.number(sly.id)
    assert (await read_profiles(service.services.engine, [number]))[number].email is None
    long = service.stranger(name="n" * 2000, email="e" * 2000)
    assert (await long.follow(bob)).status_code == 201
    number = await service.services.directory.number(long.id)
    assert (await read_profiles(service.services.engine, [number]))[number].email is None  # as an import reads none
    assert (await bob.get(f"/v1/users/{long.id}")).json()["display_name"] == "n" * 128


async def test_unfollow_by_unknown_caller_registers_and_returns_404(service: InProcess) -> None:
    bob, cat = await service.person(), service.stranger()
    assert refusal(await cat.unfollow(bob))[0] == 404


async def test_unknown_caller_reads_empty_lists(service: InProcess) -> None:
    bob, cat = await service.person(), service.stranger()
    assert not await cat.follows(bob)
    for path in ("me/following", "me/followers", f"{cat.id}/following"):
        body = (await cat.get(f"/v1/users/{path}")).json()
        assert (body["data"], body["pagination"]["total"]) == ([], 0)
    assert refusal(await bob.get(f"/v1/users/{cat.id}/followers"))[0] == 404
    assert refusal(await bob.get(f"/v1/users/{cat.id}/follow-status"))[0] == 404
    assert refusal(await cat.get("/v1/users/me"))[0] == 404


async def test_erased_caller_with_valid_token_returns_403(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    await service.platform.delete(f"/v1/users/{ann.id}")
    await service.finish_erasures()
    assert refusal(await ann.follow(bob)) == (403, "forbidden", None)
    assert refusal(await ann.get("/v1/users/me"))[0] == 404
    assert (await ann.get("/v1/users/me/following")).json()["data"] == []
