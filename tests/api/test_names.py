"""Ids of identity providers and logins through both dialects, and names that something else has taken."""

import re
from typing import Any

import pytest

from commands.users import is_new_login
from tests.support.in_process import InProcess, refusal
from tests.support.kraken_users import SCOPES, page

IDS = ["auth0|5f7c", "001234.ab.56", "ann@example.com", "did:plc:ewvi7nxz", "a+b=c~d", "x" * 128, "_", "Me", "me.", "-"]


@pytest.mark.parametrize("id_", IDS)
async def test_new_caller_with_such_an_id_follows_and_is_followed(service: InProcess, id_: str) -> None:
    """The login is made from the id as far as a login can have it, and leads to the user in /kraken."""
    bob = await service.person()
    ann = service.as_(id_, scope=SCOPES)
    assert (await ann.follow(bob)).json()["follower_id"] == id_
    assert (await bob.follow(ann)).json()["followed_id"] == id_
    assert [row["id"] for row in (await page(ann, "/v1/users/me/followers"))["data"]] == [bob.id]
    login = (await ann.get("/v1/users/me")).json()["username"]
    assert is_new_login(login)
    if id_ != "Me":
        assert login == re.sub("[^0-9a-z_-]", "_", id_.lower())[:64]
    found = await page(service.anybody, f"/kraken/channels/{login}/follows")
    assert [row["user"]["name"] for row in found["follows"]] == [bob.id]
    assert (await ann.get("/kraken")).json()["token"]["user_name"] == login
    assert (await ann.unfollow(bob)).status_code == 204 and (await bob.unfollow(ann)).status_code == 204


async def test_link_of_a_page_is_one_address_whatever_the_id(service: InProcess) -> None:
    ann = service.as_("auth0|a+b@c~d=e:f.g")
    await ann.follow(await service.person())
    answer = await ann.get(f"/v1/users/{ann.id}/following?per_page=1")
    address = answer.headers["link"].partition(">")[0].removeprefix("<")
    assert address == "/v1/users/auth0%7Ca%2Bb%40c~d%3De%3Af.g/following?page=1&per_page=1"
    assert (await ann.get(address)).json() == answer.json()


async def test_token_of_an_id_that_a_route_has_taken_is_unauthorized(service: InProcess) -> None:
    bob = await service.person()
    taken = service.as_("me", scope=SCOPES)
    assert refusal(await taken.follow(bob))[:2] == (401, "unauthorized")
    assert (await taken.put(f"/kraken/users/me/follows/channels/{bob.id}")).status_code == 401
    assert refusal(await service.as_("me", role="service").put("/v1/users/me", json={}))[0] == 401


@pytest.mark.parametrize("login", ["followed", "Followed", "me", "ME"])
async def test_login_that_a_route_has_taken_is_refused(service: InProcess, login: str) -> None:
    """/kraken/streams/followed are the streams that the caller follows, and no channel's."""
    new, old = service.stranger(), await service.person()
    for id_ in (new.id, old.id):
        answer = await service.platform.put(f"/v1/users/{id_}", json={"username": login})
        assert refusal(answer)[:2] == (409, "conflict")
    claimed = service.stranger(preferred_username=login, scope=SCOPES)
    assert (await claimed.get("/kraken")).json()["token"]["user_name"] == claimed.id
    assert (await claimed.follow(old)).status_code == 201
    assert (await claimed.get("/v1/users/me")).json()["username"] == claimed.id
    own_id = service.as_(login if login != "me" else "mE", scope=SCOPES)
    assert (await own_id.follow(old)).status_code == 201
    assert (await own_id.get("/v1/users/me")).json()["username"].startswith("user_")
    assert (await own_id.unfollow(old)).status_code == 204


KELVIN = "\N{KELVIN SIGN}"


async def test_foreign_letter_with_one_of_ours_in_lower_case_names_nobody(service: InProcess) -> None:
    kate = await service.person(username=f"kate-{service.stranger().id}")
    login = (await kate.get("/v1/users/me")).json()["username"]
    foreign = login.replace("k", KELVIN, 1)
    for _ in range(2):  # the second time with the login in the cache
        for path in ("channels/{}/follows", "channels/{}", "users/{}", "streams/{}", "users/{}/follows/channels"):
            assert (await service.anybody.get(f"/kraken/{path.format(foreign)}")).status_code == 404, path
            assert (await service.anybody.get(f"/kraken/{path.format(login)}")).status_code == 200, path
    own = service.as_(kate.id, scope=SCOPES)
    for method in ("PUT", "DELETE"):
        for path in (f"{foreign}/follows/channels/{login}", f"{login}/follows/channels/{foreign}"):
            assert (await own.request(method, f"/kraken/users/{path}")).status_code == 404
    claimed = service.stranger(preferred_username=foreign, scope=SCOPES)
    assert (await claimed.get("/kraken")).json()["token"]["user_name"] == claimed.id


CUT = "a\ud83d"  # as JavaScript cuts a name within an emoji


@pytest.mark.parametrize("claim", ["name", "picture", "email", "preferred_username", "nickname", "\ud83d"])
@pytest.mark.parametrize("value", [CUT, [CUT], {CUT: CUT}, 10**400])
async def test_claim_that_cannot_be_read_is_left_out(service: InProcess, claim: str, value: object) -> None:
    claims: dict[str, Any] = {claim: value}
    caller, bob = service.stranger(**claims), await service.person()
    assert (await caller.follow(bob)).status_code == 201
    found = (await caller.get("/v1/users/me")).json()
    assert (found["display_name"], found["avatar_url"], found["username"]) == (caller.id, None, caller.id)
