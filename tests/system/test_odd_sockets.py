"""Malformed requests on a real socket: server, middleware and router together still answer with the API's errors."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.support.servers import Service

ODD_LINES = [
    (b"GET /v1/users/%ff", 404, "not_found"),
    (b"GET /v1/users/%00", 404, "not_found"),
    (b"GET /v1/users/%", 404, "not_found"),
    (b"GET /v1/users/%zz/follow-status", 404, "not_found"),
    (b"GET /v1/users/%ED%A0%80/followers", 404, "not_found"),
    (b"POST /v1/users/%00/follow", 404, "not_found"),
    (b"DELETE /v1/users/%ff", 404, "not_found"),
    (b"GET /v1/users/" + b"x" * 5000, 404, "not_found"),
    (b"GET /v1/users/me/followers?page=%ff", 400, "validation_error"),
    (b"GET /v1/users/me/followers?page=%00&%00=%00", 400, "validation_error"),
    # The router ignores doubled slashes, so they must not get a request past the middleware.
    (b"GET //v1/users/x", 404, "not_found"),
    (b"GET ///v1///users//x//", 404, "not_found"),
    (b"GET /%2fv1/users/x", 404, "not_found"),
    (b"GET /%76%31/users/x", 404, "not_found"),
    (b"GET http://elsewhere.test/v1/users/x", 404, "not_found"),
    (b"GET //v1", 404, "not_found"),
    (b"GET /v1", 404, "not_found"),
    (b"FOO /v1/users/x", 405, "method_not_allowed"),
    (b"PUT /v1/users/x", 400, "validation_error"),
]


@pytest.fixture(scope="module")
def authorization(system: Service) -> bytes:
    return f"Authorization: Bearer {system.token('platform', 'service')}".encode()


def exchange(service: Service, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes and read until the server closes; return status, headers and body."""
    url = urlsplit(service.base_url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(request)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: follows.test", b"Connection: close", *headers, b"", body])


@pytest.mark.parametrize(("line", "status", "code"), ODD_LINES)
def test_odd_request_line_is_answered_with_api_error(
    system: Service, authorization: bytes, line: bytes, status: int, code: str
) -> None:
    found, headers, body = exchange(system, request(line, authorization))
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
    assert headers["content-type"] == "application/json" and "x-request-id" in headers


@pytest.mark.parametrize(("line", "status", "code"), ODD_LINES)
def test_odd_request_line_without_token_is_unauthorized(system: Service, line: bytes, status: int, code: str) -> None:
    found, _, body = exchange(system, request(line))
    expected = (found, json.loads(body)["error"]["code"])
    assert (
        expected == (401, "unauthorized")
        or (b"/v1/users" not in line.replace(b"//", b"/") and found == 404)
        or (found == 405 == status)
    )


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Follow-Position: \xff", 400),
        (b"Follow-Position: \xc2\xb2", 400),
        (b"X-Request-Id: \xff", 404),
        (b"Authorization: Bearer \xff", 401),
        (b"Authorization: \xff", 401),
        (b"Content-Length: 0", 404),
        (b"X: " + b"y" * 30_000, 404),
    ],
)
def test_odd_header_is_answered_with_api_error(
    system: Service, authorization: bytes, header: bytes, status: int
) -> None:
    own = [] if header.startswith(b"Authorization") else [authorization]
    found, _, body = exchange(system, request(b"GET /v1/users/nobody", *own, header))
    assert found == status and list(json.loads(body)) == ["error"]


LARGE = b" " * 300_000
LARGE_BODIES = {
    b"Content-Length: 300000": LARGE,
    b"Transfer-Encoding: chunked": b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE),
}


@pytest.mark.parametrize(("header", "body"), LARGE_BODIES.items(), ids=["measured", "chunked"])
def test_large_body_is_413(system: Service, authorization: bytes, header: bytes, body: bytes) -> None:
    found, _, answer = exchange(system, request(b"PUT /v1/users/x", authorization, header, body=body))
    assert (found, json.loads(answer)["error"]["code"]) == (413, "payload_too_large")


def test_head_request_is_answered_as_get_without_body(system: Service, authorization: bytes) -> None:
    status, headers, body = exchange(system, request(b"GET /v1/users/x", authorization))
    found, sent, nothing = exchange(system, request(b"HEAD /v1/users/x", authorization))
    assert (found, nothing) == (status, b"") and int(sent["content-length"]) == len(body) > 0
    assert sent.keys() == headers.keys()


def test_head_where_get_is_not_is_405_with_allowed_methods(system: Service, authorization: bytes) -> None:
    found, headers, body = exchange(system, request(b"HEAD /v1/users/x/follow", authorization))
    assert (found, body, headers["allow"]) == (405, b"", "DELETE, OPTIONS, POST")
