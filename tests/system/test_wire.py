"""What odd clients put on a real socket: the server, the gate and the router together still answer in our form."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.servers import Service

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
    # The router passes over doubled slashes, so a request must not get past the gate by them.
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
    """Send raw bytes, read until the server hangs up; give status, headers and body."""
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
def test_odd_lines(system: Service, authorization: bytes, line: bytes, status: int, code: str) -> None:
    found, headers, body = exchange(system, request(line, authorization))
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
    assert headers["content-type"] == "application/json" and "x-request-id" in headers


@pytest.mark.parametrize(("line", "status", "code"), ODD_LINES)
def test_no_line_gets_past_the_gate_without_a_token(system: Service, line: bytes, status: int, code: str) -> None:
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
def test_odd_headers(system: Service, authorization: bytes, header: bytes, status: int) -> None:
    own = [] if header.startswith(b"Authorization") else [authorization]
    found, _, body = exchange(system, request(b"GET /v1/users/nobody", *own, header))
    assert found == status and list(json.loads(body)) == ["error"]


LARGE = b" " * 70_000
LARGE_BODIES = {
    b"Content-Length: 70000": LARGE,
    b"Transfer-Encoding: chunked": b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE),
}


@pytest.mark.parametrize(("header", "body"), LARGE_BODIES.items(), ids=["measured", "chunked"])
def test_a_large_body_is_413(system: Service, authorization: bytes, header: bytes, body: bytes) -> None:
    found, _, answer = exchange(system, request(b"PUT /v1/users/x", authorization, header, body=body))
    assert (found, json.loads(answer)["error"]["code"]) == (413, "payload_too_large")


def test_head_is_405_without_a_body(system: Service, authorization: bytes) -> None:
    found, headers, body = exchange(system, request(b"HEAD /v1/users/x", authorization))
    assert (found, body, headers["allow"]) == (405, b"", "DELETE, GET, OPTIONS, PUT")
