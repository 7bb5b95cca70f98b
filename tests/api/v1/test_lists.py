"""The two lists of /v1: shapes, order, pages, totals, and the links between pages."""

import asyncio
import re

import pytest

from tests.support.in_process import InProcess, Person, refusal


@pytest.fixture(scope="module")
async def star(service: InProcess) -> Person:
    """A user whom 45 callers have followed, one after the other."""
    star = await service.person("star")
    for fan in [service.stranger("fan") for _ in range(45)]:
        assert (await fan.follow(star)).status_code == 201
    return star


def path(user: Person, side: str = "followers", **parameters: object) -> str:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"/v1/users/{user.id}/{side}?{query}"


def links(header: str) -> dict[str, str]:
    """Return the RFC 8288 links of a header by relation, in the header's order."""
    found = re.findall(r'<([^>]*)>; rel="(\w+)"', header)
    assert ", ".join(f'<{url}>; rel="{relation}"' for url, relation in found) == header
    return {relation: url for url, relation in found}


async def test_followers_row_has_documented_fields(service: InProcess) -> None:
    ann = await service.person(display_name="Ann Ä", avatar_url="https://a.test/ann.png", username="ann_of_lists")
    bob = await service.person()
    since = (await ann.follow(bob)).json()["created_at"]
    answer = await bob.get(f"/v1/users/{bob.id}/followers?page=1&per_page=20")
    assert answer.status_code == 200
    assert answer.text == (
        f'{{"success":true,"data":[{{"id":"{ann.id}","display_name":"Ann Ä",'
        f'"avatar_url":"https://a.test/ann.png","followed_at":"{since}"}}],'
        '"pagination":{"page":1,"per_page":20,"total":1,"total_pages":1}}'
    )


async def test_following_row_has_documented_fields(service: InProcess) -> None:
    ann, bob = await service.person(), await service.person(username="Bob_Of_Lists", is_available=True)
    since = (await ann.follow(bob)).json()["created_at"]
    answer = await ann.get("/v1/users/me/following?page=1&per_page=20")
    assert answer.text == (
        f'{{"success":true,"data":[{{"id":"{bob.id}","display_name":"Bob_Of_Lists","username":"bob_of_lists",'
        f'"avatar_url":null,"is_available":true,"followed_at":"{since}"}}],'
        '"pagination":{"page":1,"per_page":20,"total":1,"total_pages":1}}'
    )


@pytest.mark.parametrize("side", ["followers", "following"])
async def test_empty_list_has_total_zero(service: InProcess, side: str) -> None:
    ann = await service.person()
    answer = await ann.get(f"/v1/users/{ann.id}/{side}")
    assert answer.text == ('{"success":true,"data":[],"pagination":{"page":1,"per_page":20,"total":0,"total_pages":0}}')
    first = f"/v1/users/{ann.id}/{side}?page=1&per_page=20"
    assert answer.headers["link"] == f'<{first}>; rel="first", <{first}>; rel="last"'


async def test_followers_are_newest_first(service: InProcess, star: Person) -> None:
    data = (await star.get(path(star, per_page=100))).json()["data"]
    ages = [int(row["id"].partition("-")[2]) for row in data]
    assert len(ages) == 45 and ages == sorted(ages, reverse=True)


async def test_following_is_newest_first(service: InProcess) -> None:
    ann, *others = await service.people(6)
    for other in others:
        await ann.follow(other)
    data = (await ann.get("/v1/users/me/following")).json()["data"]
    assert [row["id"] for row in data] == [other.id for other in reversed(others)]


async def test_list_is_the_same_for_all_callers_and_names(service: InProcess, star: Person) -> None:
    callers = (star, service.stranger(), service.stranger(role="guest"), service.platform)
    seen = [(await caller.get(path(star))).json() for caller in callers]
    seen.append((await star.get("/v1/users/me/followers")).json())
    assert all(body == seen[0] for body in seen)


@pytest.mark.parametrize("per_page", [1, 7, 15, 44, 45, 46, 100])
async def test_walk_by_pages_shows_each_row_once(star: Person, per_page: int) -> None:
    """By the links alone, forward to the end and back again."""
    whole = [row["id"] for row in (await star.get(path(star, per_page=100))).json()["data"]]
    address, there, pages = path(star, page=1, per_page=per_page), list[str](), list[int]()
    while address:
        answer = await star.get(address)
        body = answer.json()
        pages.append(body["pagination"]["page"])
        there += [row["id"] for row in body["data"]]
        assert body["pagination"] == {
            "page": pages[-1],
            "per_page": per_page,
            "total": 45,
            "total_pages": -(-45 // per_page),
        }
        address = links(answer.headers["link"]).get("next", "")
    assert there == whole
    assert pages == list(range(1, len(pages) + 1)) and len(pages) == -(-45 // per_page)
    back = 1
    while previous := links(answer.headers["link"]).get("prev"):
        answer = await star.get(previous)
        back += 1
    assert back == len(pages)


async def test_links_of_first_middle_and_last_page(star: Person) -> None:
    def at(page: int) -> str:
        return f"/v1/users/{star.id}/followers?page={page}&per_page=10"

    found = [links((await star.get(at(page))).headers["link"]) for page in (1, 3, 5)]
    assert found[0] == {"first": at(1), "next": at(2), "last": at(5)}
    assert found[1] == {"first": at(1), "prev": at(2), "next": at(4), "last": at(5)}
    assert found[2] == {"first": at(1), "prev": at(4), "last": at(5)}
    assert list(found[1]) == ["first", "prev", "next", "last"]


async def test_links_keep_me(star: Person) -> None:
    answer = await star.get("/v1/users/me/followers?per_page=44")
    assert links(answer.headers["link"])["next"] == "/v1/users/me/followers?page=2&per_page=44"


@pytest.mark.parametrize("page", [4, 5, 1000, 2**53])
async def test_page_past_the_end_is_empty_with_true_total(star: Person, page: int) -> None:
    answer = await star.get(path(star, page=page, per_page=20))
    assert answer.status_code == 200
    assert answer.json() == {
        "success": True,
        "data": [],
        "pagination": {"page": page, "per_page": 20, "total": 45, "total_pages": 3},
    }
    found = links(answer.headers["link"])
    assert "next" not in found and found["prev"].endswith("page=3&per_page=20")


@pytest.mark.parametrize("per_page", [101, 1000, 2**63, 10**25])
async def test_per_page_above_100_is_served_as_100(star: Person, per_page: int) -> None:
    answer = await star.get(path(star, per_page=per_page))
    assert answer.json()["pagination"]["per_page"] == 100
    assert "per_page=100>" in answer.headers["link"]


NO_NUMBERS = ["0", "-1", "abc", "", "1.0", "1e3", "%201", "+1", "1_0", "0x1", "true", "null", "%00", "%ff", "%D9%A1"]


@pytest.mark.parametrize("name", ["page", "per_page"])
@pytest.mark.parametrize("value", [*NO_NUMBERS, "9" * 5000])
async def test_invalid_page_parameter_returns_400_with_its_name(star: Person, name: str, value: str) -> None:
    answer = await star.get(path(star, **{name: value}))
    assert refusal(answer) == (400, "validation_error", {name: "must be an integer >= 1"})


async def test_page_zero_returns_documented_error(star: Person) -> None:
    answer = await star.get(path(star, page=0))
    assert answer.text == (
        '{"error":{"code":"validation_error","message":"the request cannot be read",'
        '"details":{"page":"must be an integer >= 1"}}}'
    )


async def test_two_invalid_page_parameters_return_both_names(star: Person) -> None:
    answer = await star.get(path(star, page="x", per_page="y"))
    assert refusal(answer)[2] == {"page": "must be an integer >= 1", "per_page": "must be an integer >= 1"}


@pytest.mark.parametrize("query", ["page=1&page=2", "page=1&page=1", "per_page=5&per_page=5"])
async def test_repeated_page_parameter_returns_400(star: Person, query: str) -> None:
    answer = await star.get(f"/v1/users/me/followers?{query}")
    assert refusal(answer) == (400, "validation_error", {query.partition("=")[0]: "must be an integer >= 1"})


@pytest.mark.parametrize("page", [2**53 + 1, 2**63, 10**30])
async def test_page_above_53_bits_returns_400(star: Person, page: int) -> None:
    status, code, details = refusal(await star.get(path(star, page=page)))
    assert (status, code, list(details or ())) == (400, "validation_error", ["page"])


@pytest.mark.parametrize("query", ["", "x=1", "page=1&x=%ff", "&&", "PAGE=0", "="])
async def test_unknown_parameters_are_ignored(star: Person, query: str) -> None:
    assert (await star.get(f"/v1/users/me/followers?{query}")).status_code == 200


@pytest.mark.parametrize("side", ["followers", "following"])
async def test_lists_of_unknown_user_return_404(service: InProcess, side: str) -> None:
    ann = await service.person()
    assert refusal(await ann.get(f"/v1/users/nobody/{side}")) == (404, "not_found", None)


async def test_lists_show_current_profiles(service: InProcess) -> None:
    ann, bob = await service.people(2)
    await ann.follow(bob)
    await service.platform.put(f"/v1/users/{ann.id}", json={"display_name": "Anna"})
    assert (await bob.get("/v1/users/me/followers")).json()["data"][0]["display_name"] == "Anna"


async def test_totals_and_rows_are_consistent_under_writes(service: InProcess) -> None:
    """While others come and go, a page that could hold all never shows more or fewer than it says."""
    star, *fans = await service.people(13)

    async def come_and_go(fan: Person) -> None:
        for _ in range(4):
            await fan.follow(star)
            await fan.unfollow(star)

    async def look() -> None:
        while not done.done():
            body = (await star.get("/v1/users/me/followers?per_page=100")).json()
            assert len(body["data"]) == body["pagination"]["total"]

    done = asyncio.gather(*(come_and_go(fan) for fan in fans))
    await asyncio.gather(done, look())
