"""Every way to fail is answered in the documented form, and every word of the domain has its meaning in /v1."""

import inspect
import json
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from api.app import BODY_MAX
from api.request_id import request_context
from api.v1.errors import V1_STATUS_OF
from commands import errors
from commands.logs import TextFormatter
from tests.support.in_process import InProcess, refusal
from tests.support.v1_calls import CALLS

CODES = {
    400: "validation_error",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
}


# ---- errors and their codes


def error_classes(kind: type[errors.FollowsError] = errors.FollowsError) -> Iterator[type[errors.FollowsError]]:
    """Return all classes below ``kind``, and itself."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_classes(child)


def test_every_domain_error_has_status_and_code() -> None:
    assert set(error_classes()) == set(V1_STATUS_OF)
    assert all(code == CODES[status] for status, code in V1_STATUS_OF.values())


def test_docstring_tree_names_every_domain_error() -> None:
    drawn = {word for line in (inspect.getdoc(errors) or "").splitlines() for word in line.replace("│", " ").split()}
    assert {word.__name__ for word in error_classes()} <= drawn


# ---- paths and methods


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/v1", "/v1/", "/v1/users", "/v1/users/", "/v1/users/x/nothing", "/v2/users/x", "/%00", "/%ff"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_unknown_path_returns_404_with_and_without_token(service: InProcess, method: str, path: str) -> None:
    for caller in (service.anybody, service.platform):
        answer = await caller.request(method, path)
        assert refusal(answer) == (404, "not_found", None)


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "FOO", "POST"])
async def test_wrong_method_returns_405_with_allowed_methods(service: InProcess, method: str) -> None:
    answer = await service.platform.request(method, "/v1/users/x")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PUT"
    assert refusal(answer) == (405, "method_not_allowed", None)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/follow", "DELETE, OPTIONS, POST"),
        ("/followers", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_returns_all_methods_of_path(service: InProcess, path: str, methods: str) -> None:
    answer = await service.as_("ann").options(f"/v1/users/x{path}")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, methods, b"")
    assert "content-type" not in answer.headers and "content-length" not in answer.headers


async def test_wrong_method_outside_of_dialects_returns_405(service: InProcess) -> None:
    answer = await service.anybody.post("/health/live")
    assert refusal(answer) == (405, "method_not_allowed", None)
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


# ---- bodies

NO_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"  \n",
    "no JSON": b"nope",
    "cut off": b'{"bio": "x',
    "more behind": b'{"bio":"x"} {}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "bad UTF-8": b'{"bio":"\xff"}',
    "bad UTF-8 at once": b"\xff\xfe",
    "a lone surrogate": b'{"bio":"\\ud800"}',
    "a surrogate in UTF-8": b'{"bio":"\xed\xa0\x80"}',
    "UTF-16": '{"bio":"x"}'.encode("utf-16"),
    "a form": b"bio=x",
    "not a number": b'{"views":NaN}',
    "a control character": b'{"bio":"\n"}',
    "deep at last": b'{"nope":' * 5000,
    "null": b"null",
    "a list": b"[]",
    "a text": b'"{}"',
    "a number": b"1",
    "deep lists": b"[" * 60_000,
}


@pytest.mark.parametrize("raw", NO_BODIES.values(), ids=NO_BODIES)
@pytest.mark.parametrize("call", ["", "/broadcast"])
async def test_body_that_is_not_an_object_returns_400(service: InProcess, call: str, raw: bytes) -> None:
    answer = await service.platform.put(f"/v1/users/somebody{call}", content=raw)
    status, code, details = refusal(answer)
    assert (status, code) == (400, "validation_error")
    assert details is not None and len(details) == 1
    assert refusal(await service.platform.get("/v1/users/somebody"))[0] == 404


async def test_deeply_nested_value_returns_400_with_field(service: InProcess) -> None:
    answer = await service.platform.put("/v1/users/somebody", content=b'{"bio":' + b"[" * 60_000)
    assert refusal(answer)[2] == {"bio": "must be `str | null`, not `array`"}


async def test_number_out_of_range_returns_400(service: InProcess) -> None:
    for number in (b"1e400", b"9" * 5000):
        answer = await service.platform.put("/v1/users/somebody", content=b'{"views":' + number + b"}")
        assert refusal(answer)[:2] == (400, "validation_error")


async def test_body_above_size_limit_returns_413(service: InProcess) -> None:
    def padded(size: int) -> bytes:
        return b"{" + b" " * (size - 2) + b"}"

    assert (await service.platform.put("/v1/users/padded", content=padded(BODY_MAX))).status_code == 201
    answer = await service.platform.put("/v1/users/padded", content=padded(BODY_MAX + 1))
    assert refusal(answer) == (413, "payload_too_large", None)


async def test_body_with_the_longest_fields_is_stored_however_it_is_escaped(service: InProcess) -> None:
    """An encoder that escapes all but ASCII writes an emoji in 12 bytes."""
    dice, lengths = "\N{GAME DIE}", {"bio": 4096, "status": 4096, "game": 256, "display_name": 128}
    addresses = ("avatar_url", "banner", "video_banner", "background", "profile_banner", "url")
    fields = {name: dice * length for name, length in lengths.items()}
    fields |= dict.fromkeys(addresses, f"https://{dice * 2040}")
    fields |= dict.fromkeys(("broadcaster_language", "language"), dice * 35)
    fields |= {"profile_banner_background_color": dice * 256, "email": dice * 256, "username": "u" * 64}
    body = json.dumps(fields).encode()
    assert BODY_MAX * 9 // 10 < len(body) < BODY_MAX
    answer = await service.platform.put("/v1/users/longest", content=body)
    assert (answer.status_code, answer.json()["bio"]) == (201, fields["bio"])


async def test_chunked_body_above_size_limit_returns_413(service: InProcess) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BODY_MAX // 1000 + 1):
            yield b" " * 1000

    answer = await service.platform.put("/v1/users/padded", content=pieces())
    assert refusal(answer) == (413, "payload_too_large", None)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/json; charset=nope",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/msgpack",
        ";;;=",
        b"\xff",
    ],
)
async def test_json_body_is_read_with_any_content_type(service: InProcess, content_type: str | bytes) -> None:
    """All bodies are JSON, and old tools leave the header out or send that of forms."""
    raw = {b"Content-Type": content_type if isinstance(content_type, bytes) else content_type.encode()}
    ann = await service.person()
    answer = await service.platform.put(f"/v1/users/{ann.id}", content=b'{"bio":"x"}', headers=raw)
    assert answer.status_code == 200 and answer.json()["bio"] == "x"


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_body_of_call_without_body_is_ignored(service: InProcess, method: str, path: str) -> None:
    if method in ("POST", "DELETE", "GET"):
        answer = await service.platform.request(method, path, content=b"\xff{" * 10)
        assert answer.status_code in (200, 404)


# ---- our own faults


async def test_unexpected_error_returns_500_without_its_text(
    service: InProcess, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "-".join(["sword", "fish"])

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr(service.services.directory, "put", broken)
    caplog.handler.setFormatter(TextFormatter(request_context))
    with caplog.at_level(logging.ERROR):
        answer = await service.platform.put("/v1/users/x", json={"bio": "a private matter"})
    assert refusal(answer) == (500, "internal_error", None)
    assert secret not in answer.text
    assert f"[{answer.headers['x-request-id']}]" in caplog.text and "builtins.RuntimeError" in caplog.text
    assert "in broken" in caplog.text  # where it happened
    assert secret not in caplog.text and "a private matter" not in caplog.text


async def test_failed_statement_is_logged_without_personal_data(
    service: InProcess, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No personal datum in a log line, not even when a statement fails that carries some."""
    monkeypatch.setattr("commands.directory._json", lambda _: '{"email":"ann@a.test"')  # half of a JSON object
    with caplog.at_level(logging.ERROR):
        answer = await service.platform.put("/v1/users/x", json={"email": "ann@a.test"})
    assert refusal(answer)[0] == 500
    assert "DataError" in caplog.text and "ann@a.test" not in caplog.text
