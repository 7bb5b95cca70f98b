"""The odd requests of the API document: forms that real clients send, and values that must be refused."""

from urllib.parse import quote

import pytest

from tests.support.in_process import InProcess
from tests.support.kraken_users import SCOPES, new_user, page


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "application/vnd.twitchtv.v3+json",
        "application/vnd.twitchtv.v2+json",
        "application/vnd.twitchtv+json",
        "Accept: application/vnd.twitchtv.v3+json",
        "*/*",
        "text/html",
        "nonsense;;;",
        "",
    ],
)
async def test_any_accept_header_gets_v3(service: InProcess, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = await service.anybody.get("/kraken?api_version=3", headers=headers)
    assert (answer.status_code, answer.headers["x-api-version"]) == (200, "3")
    assert answer.headers["content-type"] == "application/json"


async def test_paths_with_double_or_trailing_slashes_are_served(service: InProcess) -> None:
    user = await new_user(service)
    for path in ("//kraken//", "/kraken/", "/kraken?", "/kraken//"):
        assert (await service.anybody.get(f"http://follows.test{path}")).json()["token"]["valid"] is False
    for path in (
        f"/kraken//users/{user.id}",
        f"/kraken/users/{user.id}/",
        f"/kraken/users//{user.id}//?",
        f"//kraken/users/{user.id}?",
    ):
        answer = await service.anybody.get(f"http://follows.test{path}")
        assert (answer.status_code, answer.json()["name"]) == (200, user.id)
        assert answer.json()["_links"]["self"] == f"http://follows.test/kraken/users/{user.id}"
    for path in ("/krakenx", "/v1//kraken", "/kraken2/users/x"):
        answer = await service.anybody.get(path)
        assert answer.status_code in (401, 404) and "x-api-version" not in answer.headers


async def test_unknown_parameters_are_ignored_and_last_of_repeated_counts(service: InProcess) -> None:
    user = await new_user(service)
    address = f"/kraken/channels/{user.id}/follows"
    base = f"http://follows.test{address}"
    odd = "?limit=1&limit=7&x=%ff&%00=&&=&direction=asc&api_version=3&client_id=abc&on_site=1&_=1371234567"
    assert (await page(service.anybody, address + odd))["_links"]["self"] == f"{base}?direction=ASC&limit=7"
    for direction in ("DESC", "Desc", "desc"):
        found = await page(service.anybody, address, direction=direction)
        assert found["_links"]["self"] == f"{base}?direction=DESC&limit=25"


@pytest.mark.parametrize(
    ("limit", "served"), [("1", 1), ("100", 100), ("101", 100), ("9" * 30, 100), ("9" * 5000, 100), ("007", 7)]
)
async def test_limit_is_served_up_to_100(service: InProcess, limit: str, served: int) -> None:
    user = await new_user(service)
    found = await page(service.anybody, f"/kraken/channels/{user.id}/follows", limit=limit)
    assert found["_links"]["self"].endswith(f"&limit={served}")


MALFORMED = {
    "limit": ["-1", "abc", "1.0", "1e2", "+1", "0x1", "١", "NaN", "-" + "9" * 30, " 1"],
    "offset": ["-1", "abc", "1.5", "undefined"],
    "direction": ["up", "descending", "1"],
    # Numbers that are not cursors of this service are refused, too.
    "cursor": ["undefined", "null", "0", "-1", "1.5", "12345", "1364170340354965000", "9" * 35, "9" * 5000, "١٢"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in MALFORMED.items() for value in values])
async def test_invalid_parameter_returns_400_and_never_page_one(service: InProcess, name: str, value: str) -> None:
    user = await new_user(service)
    addresses = [f"/kraken/channels/{user.id}/follows", f"/kraken/users/{user.id}/follows/channels"]
    if name in ("limit", "offset"):
        addresses.append("/kraken/streams/followed")
    for address in addresses:
        answer = await user.get(f"{address}?{name}={quote(value)}")
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"] == "Bad Request"
        assert answer.json()["message"].startswith(f'The parameter "{name}" was malformed: the value must ')


async def test_blank_parameters_and_a_limit_of_zero_are_as_if_not_sent(service: InProcess) -> None:
    """A C# library sends limit=0 always, and loops that are written by hand begin with an empty cursor."""
    user, channel = await new_user(service), await new_user(service)
    assert (await user.put(f"/kraken/users/{user.id}/follows/channels/{channel.id}?notifications=")).status_code == 200
    for address in (
        f"/kraken/channels/{channel.id}/follows",
        f"/kraken/users/{user.id}/follows/channels",
        "/kraken/streams/followed",
    ):
        plain = await page(user, address)
        for query in (
            "limit=0",
            "limit=00",
            "limit=0&offset=0",
            "cursor=",
            "limit=&offset=&cursor=&direction=&sortby=&stream_type=",
            "limit=25&limit=",
        ):
            answer = await user.get(f"{address}?{query}")
            assert (answer.status_code, answer.json().get("follows")) == (200, plain.get("follows")), (address, query)
            if "offset=0" not in query:
                assert answer.json() == plain, (address, query)


async def test_blank_notifications_change_nothing(service: InProcess) -> None:
    user, channel = await new_user(service), await new_user(service)
    follow = f"/kraken/users/{user.id}/follows/channels/{channel.id}"
    assert (await user.put(f"{follow}?notifications=true")).json()["notifications"] is True
    for sent in ({"data": {"notifications": ""}}, {"json": {"notifications": ""}}, {"json": {"notifications": None}}):
        assert (await user.put(follow, **sent)).json()["notifications"] is True


async def test_invalid_parameter_of_one_list_returns_400_with_its_name(service: InProcess) -> None:
    user = await new_user(service)
    following = f"/kraken/users/{user.id}/follows/channels"
    for address, message in (
        (f"{following}?sortby=name", "sortby"),
        (f"{following}?sortby=login&cursor=35906122231721680000000000000000003", "cursor"),
        ("/kraken/streams/followed?stream_type=premiere", "stream_type"),
        (f"/kraken/channels/{user.id}/follows?offset=1601", "offset"),
    ):
        answer = await user.get(address)
        assert (answer.status_code, answer.json()["message"].split('"')[1]) == (400, message)
    assert (await user.get(f"{following}?offset=1601&sortby=LOGIN")).status_code == 200
    assert (await user.get("/kraken/streams/followed?offset=99999&stream_type=LIVE")).status_code == 200


async def test_token_is_read_from_header_query_or_body(service: InProcess) -> None:
    user, channel = await new_user(service), await new_user(service)
    token, follow = service.token(user.id, scope=SCOPES), f"/kraken/users/{user.id}/follows/channels/{channel.id}"
    anybody = service.anybody
    for scheme in ("OAuth", "Bearer", "oauth", "BEARER", "OAuth  "):
        assert (await anybody.get("/kraken/user", headers={"Authorization": f"{scheme} {token}"})).status_code == 200
    assert (await anybody.get("/kraken/user", params={"oauth_token": token})).status_code == 200
    basic = {"Authorization": "Basic eDp5"}
    assert (await anybody.get("/kraken/user", params={"oauth_token": token}, headers=basic)).status_code == 200
    assert (await anybody.put(follow, data={"oauth_token": token})).status_code == 200
    assert (await anybody.put(follow, json={"oauth_token": token, "notifications": True})).json()[
        "notifications"
    ] is True
    assert (await anybody.delete(follow, params={"oauth_token": token})).status_code == 204
    assert (await anybody.request("DELETE", follow, content=f"oauth_token={token}")).status_code == 401
    for headers in (basic, {"Authorization": "OAuth"}, {"Authorization": token}, {"Authorization": "OAuth a b"}):
        answer = await anybody.get("/kraken/user", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["message"].startswith("Token invalid or missing required scope user_read: ")
    assert (await anybody.get("/kraken/user", params={"oauth_token": ""})).status_code == 401


async def test_public_call_with_bad_token_returns_200(service: InProcess) -> None:
    user = await new_user(service)
    for headers in ({"Authorization": "OAuth expired"}, {"Authorization": "Basic eDp5"}, {"Authorization": "OAuth "}):
        assert (await service.anybody.get(f"/kraken/users/{user.id}", headers=headers)).status_code == 200
        assert (await service.anybody.get(f"/kraken/channels/{user.id}/follows", headers=headers)).status_code == 200


async def test_scopes_are_read_as_text_or_list(service: InProcess) -> None:
    user = await new_user(service)
    for scope in ("user_read", "chat_login user_read", ["user_read"], ["chat_login", "user_read"]):
        assert (await service.as_(user.id, scope=scope).get("/kraken/user")).status_code == 200
    for scope in ("", "user_reader", [], ["user_follows_edit"]):
        answer = await service.as_(user.id, scope=scope).get("/kraken/user")
        expected = "Token invalid or missing required scope user_read: the token lacks it"
        assert (answer.status_code, answer.json()["message"]) == (401, expected)


async def test_success_has_no_error_field(service: InProcess) -> None:
    user = await new_user(service)
    follow = f"users/{user.id}/follows/channels"
    for path in (
        "",
        f"users/{user.id}",
        "user",
        f"channels/{user.id}",
        f"streams/{user.id}",
        follow,
        "streams/followed",
    ):
        answer = await user.get(f"/kraken/{path}")
        assert answer.status_code == 200 and not answer.json().get("error")


async def test_unchanged_answer_returns_304(service: InProcess) -> None:
    user, channel = await new_user(service), await new_user(service)
    address = f"/kraken/channels/{channel.id}/follows"
    first = await service.anybody.get(address)
    known = {"If-None-Match": first.headers["etag"]}
    again = await service.anybody.get(address, headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    await user.put(f"/kraken/users/{user.id}/follows/channels/{channel.id}")
    changed = await service.anybody.get(address, headers=known)
    assert changed.status_code == 200 and changed.headers["etag"] != first.headers["etag"]
    assert changed.headers["cache-control"] == "private, no-cache" and changed.headers["vary"] == "Authorization"
