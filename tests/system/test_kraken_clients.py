"""Clients made of the standard library only, which use /kraken of real processes as old programs do."""

import http.client
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from tests.support.servers import Service

FANS = 130
CHANNEL = "Kraken-Star"
open_url = build_opener(ProxyHandler({})).open  # no proxy, even if the environment names one


def call(url: str, method: str = "GET", token: str = "", body: bytes | None = None) -> tuple[int, Any]:
    """Send a request; return its status and JSON."""
    headers = {"Accept": "Accept: application/vnd.twitchtv.v3+json", "Client-ID": "axjhfp777tflhy0yjb5sftsil"}
    if token:
        headers["Authorization"] = f"OAuth {token}"
    with open_url(Request(url, body, headers, method=method), timeout=30) as answer:
        raw = answer.read()
        assert answer.headers["x-api-version"] == "3"
        return answer.status, json.loads(raw) if raw else None


def script(url: str, **parameters: str) -> Any:
    """Load the address as a JSON-P script; return the argument of its callback, None if there is none."""
    with open_url(f"{url}?{urlencode({'callback': 'cb', **parameters})}", timeout=30) as answer:
        assert answer.headers["content-type"] == "application/javascript"
        found = re.fullmatch(rb"cb\((.*)\);", answer.read())
        assert answer.status == 200 and found is not None
        return json.loads(found[1]) if found[1] else None


@pytest.fixture(scope="module")
def kraken(system: Service) -> str:
    """The address of the dialect, with a channel that has FANS followers."""
    base = f"{system.base_url}/kraken"
    with system.client("platform", role="service") as platform:
        assert platform.put(f"/v1/users/{CHANNEL}", json={"username": CHANNEL}).status_code == 201

    def follow(at: int) -> None:  # its first call registers a user
        token = system.token(f"kraken-fan-{at}", scopes=("user_follows_edit",))
        assert call(f"{base}/users/kraken-fan-{at}/follows/channels/kraken-star", "PUT", token)[0] == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(follow, range(FANS)))
    return base


@pytest.mark.parametrize("way", ["_links.next", "_cursor", "offset"])
def test_list_walk_in_both_directions_finds_every_row_once(kraken: str, way: str) -> None:
    walks: dict[str, list[tuple[str, str]]] = {}
    for direction in ("desc", "asc"):
        address, found, total = f"{kraken}//channels/kraken-star/follows/?", list[tuple[str, str]](), 0
        url = f"{address}direction={direction}&limit=25" + ("&offset=0" if way == "offset" else "")
        while True:
            _, page = call(url)
            total = page["_total"]
            if not page["follows"]:
                break
            found += [(row["user"]["name"], row["created_at"]) for row in page["follows"]]
            if way == "_cursor":
                url = f"{address}direction={direction}&limit=25&cursor={quote(page['_cursor'])}"
            else:
                url = page["_links"]["next"]
        assert len(found) == len({name for name, _ in found}) == total == FANS
        walks[direction] = found
    assert walks["asc"] == walks["desc"][::-1]
    assert [when for _, when in walks["asc"]] == sorted(when for _, when in walks["asc"])
    assert call(f"{kraken}/channels/KRAKEN-STAR")[1]["followers"] == FANS


def test_follow_and_unfollow_with_token_in_header(kraken: str, system: Service) -> None:
    token = system.token("by-header", scopes=("user_follows_edit", "user_read"))
    assert call(kraken, token=token)[1]["token"]["user_name"] == "by-header"
    follow = f"{kraken}/users/by-header/follows/channels/kraken-star"
    status, made = call(follow, "PUT", token, b"notifications=true")
    assert (status, made["notifications"]) == (200, True)
    assert call(follow) == (200, made)
    assert call(follow, "DELETE", token) == (204, None)
    assert _status(follow) == 404


def test_follow_and_unfollow_with_token_in_query(kraken: str, system: Service) -> None:
    token = system.token("by-query", scopes=("user_follows_edit",))
    follow = f"{kraken}/users/by-query/follows/channels/kraken-star"
    status, made = call(f"{follow}?oauth_token={token}", "PUT")
    assert status == 200 and call(follow) == (200, made)
    assert call(f"{follow}?oauth_token={token}", "DELETE") == (204, None)
    assert _status(follow) == 404


def test_follow_and_unfollow_through_scripts(kraken: str, system: Service) -> None:
    token = system.token("by-script", scopes=("user_follows_edit",))
    follow = f"{kraken}/users/by-script/follows/channels/kraken-star"
    made = script(follow, _method="PUT", oauth_token=token)
    assert made["channel"]["name"] == "kraken-star"
    assert script(follow) == made
    assert script(follow, _method="DELETE", oauth_token=token) is None
    assert script(follow)["status"] == 404
    assert script(follow, _method="DELETE", oauth_token=token)["status"] == 422


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /kraken? HTTP/1.0\r\n\r\n", 200),
        (b"GET //kraken//users//kraken-star/? HTTP/1.1\r\nHost: old.example\r\nConnection: close\r\n\r\n", 200),
        (b"GET /kraken/users/%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /kraken/users/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /kraken/users/a%2Fb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /kraken/channels/kraken-star/follows?cursor=%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"OPTIONS /kraken/user HTTP/1.1\r\nHost: x\r\nOrigin: null\r\nConnection: close\r\n\r\n", 204),
        (b"PUT /kraken/users/a/follows/channels/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
        (
            b"PUT /kraken/users/a/follows/channels/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n3\r\na=b\r\n2\r\n&c\r\n0\r\n\r\n",
            401,
        ),
    ],
)
def test_raw_request_has_documented_status(kraken: str, request_: bytes, status: int) -> None:
    place = urlsplit(kraken)
    with socket.create_connection((str(place.hostname), place.port or 80), timeout=30) as wire:
        wire.sendall(request_)
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        body = answer.read()
    assert answer.status == status, body
    assert answer.headers["x-api-version"] == "3"
    assert (json.loads(body)["status"] == status) if status >= 400 else not body or "error" not in json.loads(body)


def _status(url: str) -> int:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    try:
        connection.request("GET", place.path)
        return connection.getresponse().status
    finally:
        connection.close()
