"""Requests that a gateway in front could read otherwise, on a real socket: 400, and nothing is done."""

import json
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.raw_requests import exchange
from tests.support.servers import Service

FOLLOW = "/v1/users/read-by/follow"
EMPTY_CHUNKS = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def caller(system: Service) -> bytes:
    """The header of a caller, whose follows the tests look at; the followed user exists."""
    platform = {"Authorization": f"Bearer {system.token('platform', 'service')}"}
    for id_ in ("reader", "read-by"):
        assert httpx.put(f"{system.base_url}/v1/users/{id_}", json={}, headers=platform).is_success
    return f"Authorization: Bearer {system.token('reader', scopes=('user_follows_edit', 'user_read'))}".encode()


def send(
    service: Service, line: str, *headers: bytes, body: bytes = b"", version: str = "HTTP/1.1"
) -> tuple[int, bytes, dict[str, str]]:
    """Send raw bytes; return status, body and headers of the first answer."""
    url = urlsplit(service.base_url)
    request = b"\r\n".join([f"{line} {version}".encode(), *headers, b"Connection: close", b"", body])
    head, _, answer = exchange((url.hostname or "", url.port or 0), request, ends=False).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), answer, fields


def follows(service: Service, caller: bytes) -> bool:
    """Return whether the caller follows the user."""
    status, body, _ = send(service, "GET /v1/users/read-by/follow-status", b"Host: follows.test", caller)
    assert status == 200, body
    found: bool = json.loads(body)["is_following"]
    return found


HOST = b"Host: follows.test"
BAD: dict[str, tuple[list[bytes], bytes]] = {
    "bad token, good token": ([HOST, b"Authorization: Bearer bad", b"CALLER"], b""),
    "good token, bad token": ([HOST, b"CALLER", b"Authorization: Bearer bad"], b""),
    "the same token twice": ([HOST, b"CALLER", b"CALLER"], b""),
    "two hosts": ([HOST, b"Host: other.test", b"CALLER"], b""),
    "the same host twice": ([HOST, HOST, b"CALLER"], b""),
    "no host": ([b"CALLER"], b""),
    "an empty host": ([b"Host: ", b"CALLER"], b""),
    "two hosts in a line": ([b"Host: follows.test, other.test", b"CALLER"], b""),
    "a path in the host": ([b"Host: follows.test/v1", b"CALLER"], b""),
    "two keys": ([HOST, b"CALLER", b"Idempotency-Key: a", b"Idempotency-Key: b"], b""),
    "two positions": ([HOST, b"CALLER", b"Follow-Position: 0", b"Follow-Position: 1"], b""),
    "a broken chunk": ([HOST, b"CALLER", b"Transfer-Encoding: chunked"], b"zz"),
    "a broken second chunk": ([HOST, b"CALLER", b"Transfer-Encoding: chunked"], b"1\r\na\r\nzz\r\n"),
    "chunks in chunks": ([HOST, b"CALLER", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], EMPTY_CHUNKS),
    "compressed chunks": ([HOST, b"CALLER", b"Transfer-Encoding: gzip, chunked"], EMPTY_CHUNKS),
    "another transfer encoding": ([HOST, b"CALLER", b"Transfer-Encoding: identity"], b""),
    "two lengths": ([HOST, b"CALLER", b"Content-Length: 0", b"Content-Length: 2"], b"{}"),
    "lengths in a line": ([HOST, b"CALLER", b"Content-Length: 2, 2"], b"{}"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize(
    "line", [f"POST {FOLLOW}", "PUT /kraken/users/reader/follows/channels/read-by", f"DELETE {FOLLOW}"]
)
def test_request_with_two_readings_is_400_and_does_nothing(
    system: Service, caller: bytes, case: str, line: str
) -> None:
    headers, body = BAD[case]
    before = follows(system, caller)
    status, answer, _ = send(system, line, *(caller if one == b"CALLER" else one for one in headers), body=body)
    assert status == 400, answer
    assert not answer or "error" in json.loads(answer)  # the server itself answers some, without a body
    assert follows(system, caller) == before is False


@pytest.mark.parametrize("case", ["two hosts", "no host", "bad token, good token"])
@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/users/read-by",
        "GET /v1/users/read-by/followers",
        "OPTIONS /v1/users/read-by",
        "HEAD /v1/users/read-by",
        "GET /kraken",
        "GET /kraken/channels/read-by/follows",
        "OPTIONS /kraken/user",
        "GET /health/live",
        "GET /docs",
        "GET /nothing",
    ],
)
def test_read_with_two_readings_is_400(system: Service, caller: bytes, case: str, line: str) -> None:
    headers, _ = BAD[case]
    status, answer, fields = send(system, line, *(caller if one == b"CALLER" else one for one in headers))
    assert status == 400 and "x-request-id" in fields, answer


def test_repeated_token_in_an_address_is_400(system: Service, caller: bytes) -> None:
    good = caller.decode().rpartition(" ")[2]
    for query, expected in (
        (f"oauth_token=bad&oauth_token={good}", 400),
        (f"oauth_token={good}&oauth_token=bad", 400),
        (f"callback=f&oauth_token={good}&_method=PUT&_method=DELETE", 400),
        (f"oauth_token={good}&oauth_token={good}", 200),
        (f"oauth_token=&oauth_token={good}", 200),
    ):
        status, answer, _ = send(system, f"GET /kraken/user?{query}", HOST)
        inside = json.loads(answer[2:-2])["status"] if answer[:2] == b"f(" else status
        assert inside == expected, (query, answer)


def test_request_of_http_1_0_needs_no_host(system: Service, caller: bytes) -> None:
    status, _, _ = send(system, "GET /v1/users/read-by", caller, version="HTTP/1.0")
    assert status == 200
    status, answer, _ = send(system, "GET /kraken", version="HTTP/1.0")
    assert status == 200 and b"http://127.0.0.1:" in answer


def test_body_in_chunks_is_read_and_its_connection_closed(system: Service, caller: bytes) -> None:
    """The server drops a Content-Length beside chunks, so what comes after them is not read as a request."""
    platform = f"Authorization: Bearer {system.token('platform', 'service')}".encode()
    body = b'b\r\n{"bio":"x"}\r\n0\r\n\r\n'
    smuggled = b"GET /v1/users/read-by HTTP/1.1\r\nHost: follows.test\r\n\r\n"
    url = urlsplit(system.base_url)
    for headers in ([b"Transfer-Encoding: chunked"], [b"Content-Length: 20", b"Transfer-Encoding: chunked"]):
        request = b"\r\n".join([b"PUT /v1/users/read-by HTTP/1.1", HOST, platform, *headers, b"", body])
        answers = exchange((url.hostname or "", url.port or 0), request + smuggled, ends=False)
        assert answers.startswith(b"HTTP/1.1 200") and answers.count(b"HTTP/1.1") == 1
        assert b"\r\nconnection: close\r\n" in answers.lower()


def test_broken_body_of_a_command_of_kraken_that_has_none_does_nothing(system: Service, caller: bytes) -> None:
    assert send(system, f"POST {FOLLOW}", HOST, caller)[0] == 201
    token, path = caller.decode().rpartition(" ")[2], "/kraken/users/reader/follows/channels/read-by"
    for line in (f"DELETE {path}", f"GET {path}?callback=f&_method=DELETE&oauth_token={token}"):
        status, answer, _ = send(system, line, HOST, caller, b"Transfer-Encoding: chunked", body=b"zz")
        assert status == 400 or b'"status":400' in answer
        assert follows(system, caller)
    assert send(system, f"DELETE {FOLLOW}", HOST, caller)[0] == 204


def test_broken_body_of_a_put_is_400_in_v1(system: Service) -> None:
    platform = f"Authorization: Bearer {system.token('platform', 'service')}".encode()
    for path in ("/v1/users/never-made", "/v1/users/read-by/broadcast"):
        status, answer, _ = send(system, f"PUT {path}", HOST, platform, b"Transfer-Encoding: chunked", body=b"zz")
        assert (status, json.loads(answer)["error"]["code"]) == (400, "validation_error")
    assert send(system, "GET /v1/users/never-made", HOST, platform)[0] == 404


def test_large_body_where_no_call_has_one_is_413(system: Service, caller: bytes) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (300_000, b" " * 300_000)
    for line in (f"POST {FOLLOW}", "PUT /kraken/users/reader/follows/channels/read-by"):
        status, answer, _ = send(system, line, HOST, caller, b"Transfer-Encoding: chunked", body=body)
        assert (status, b"error" in answer) == (413, True)
    assert not follows(system, caller)


@pytest.mark.parametrize("slash", ["%2F", "%2f", "%252F"])
def test_encoded_slash_is_part_of_a_name(system: Service, caller: bytes, slash: str) -> None:
    """Not a separator: a gateway that lets /v1/users/NAME through must not have let a follow through."""
    for line in (
        f"POST /v1/users/read-by{slash}follow",
        f"PUT /kraken/users/reader/follows/channels{slash}read-by",
        f"GET /v1/users{slash}read-by/followers",
        f"GET /kraken/users/read-by{slash}follows/channels",
        f"GET /kraken{slash}channels/read-by/follows",
        f"GET /health{slash}live",
    ):
        status, answer, _ = send(system, line, HOST, caller)
        assert status in (404, 405), (line, answer)
    assert not follows(system, caller)
    status, answer, _ = send(system, f"GET /v1/users/read-by{slash}x/followers", HOST, caller)
    assert (status, json.loads(answer)["error"]["code"]) == (404, "not_found")


IDS = ["auth0|5f7c", "001234.ab.56", "ann@example.com", "did:plc:ewvi7nxz", "a+b=c~d", "x" * 128, "-.", "_:"]


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("encoded", [False, True])
def test_id_of_an_identity_provider_is_served_as_it_comes_in_a_path(system: Service, id_: str, encoded: bool) -> None:
    written = "".join(f"%{ord(letter):02X}" for letter in id_) if encoded else id_
    platform = f"Authorization: Bearer {system.token('platform', 'service')}".encode()
    own = f"Authorization: Bearer {system.token(id_)}".encode()
    fan = f"Authorization: Bearer {system.token(f'{id_[:120]}.fan')}".encode()
    length = b"Content-Length: 2"
    assert send(system, f"PUT /v1/users/{written}", HOST, platform, length, body=b"{}")[0] in (200, 201)
    send(system, f"DELETE /v1/users/{written}/follow", HOST, fan)
    status, answer, _ = send(system, f"POST /v1/users/{written}/follow", HOST, fan)
    assert (status, json.loads(answer)["followed_id"]) == (201, id_)
    status, answer, fields = send(system, f"GET /v1/users/{written}/followers?per_page=1", HOST, own)
    [row] = json.loads(answer)["data"]
    assert (status, row["id"]) == (200, f"{id_[:120]}.fan")
    # The links lead back, and so does the row's id.
    link = fields["link"].partition(">")[0].removeprefix("<")
    assert send(system, f"GET {link}", HOST, own)[0] == 200
    assert json.loads(send(system, f"GET /v1/users/{written}", HOST, own)[1])["id"] == id_
    assert json.loads(send(system, f"GET /v1/users/{written}/follow-status", HOST, fan)[1])["is_following"] is True
    assert send(system, f"DELETE /v1/users/{written}/follow", HOST, fan)[0] == 204
