"""Every line that a web process logs for a request carries the id that the answer has in its header."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from cli.dev.dev_key import ensure_dev_key, sign
from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.servers import Service

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?:DEBUG|INFO|WARNING|ERROR) web@\S+\[\d+\] "
    r"[a-zA-Z0-9_.]+ \[([^ ]+)\] ?(.*)"
)
# Lines of the HTTP server itself, which belong to no request.
SERVER_LINE = re.compile(r"\S+Z (?:INFO|WARNING) web@\S+\[\d+\] _granian[.a-z]* ")
# Without the function, every append fails with an error that the code does not expect.
BREAK_APPENDS = "ALTER FUNCTION append_events RENAME TO append_events_away"
REPAIR_APPENDS = "ALTER FUNCTION append_events_away RENAME TO append_events"
CONCURRENT = 6


def lines(service: Service) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of each line that the web process logged; fails on a line without an id."""
    for line in (service.folder / "web.log").read_text().splitlines():
        if SERVER_LINE.match(line):
            continue
        found = LINE.fullmatch(line)
        assert found is not None, line
        yield found[1], found[2]


def lines_of(service: Service, answer: httpx.Response) -> list[str]:
    """Return the lines that were logged for this request."""
    return [text for name, text in lines(service) if name == answer.headers["x-request-id"]]


@pytest.fixture
def broken_appends(system: Service) -> Iterator[None]:
    """No follow can be written, because of an unexpected error."""
    with system.client("platform", "service") as client:
        for user in ("star", *(f"fan{number}" for number in range(CONCURRENT))):
            assert client.put(f"/v1/users/{user}", json={}).status_code in (200, 201)
    with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as log:
        log.execute(BREAK_APPENDS)
        try:
            yield
        finally:
            log.execute(REPAIR_APPENDS)


@pytest.mark.usefixtures("broken_appends")
def test_unexpected_error_logs_request_id_on_every_line(system: Service) -> None:
    answers: list[httpx.Response] = []

    def act(number: int) -> None:
        with system.client(f"fan{number}", scopes=["user_follows_edit"]) as client:
            answers.append(client.post("/v1/users/star/follow"))
            answers.append(client.put(f"/kraken/users/fan{number}/follows/channels/star"))

    threads = [threading.Thread(target=act, args=(number,)) for number in range(CONCURRENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [500] * 2 * CONCURRENT
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    for answer in answers:
        first, *traceback = lines_of(system, answer)
        assert first.startswith("the request failed: ") and traceback[0].lstrip().startswith("File ")


@pytest.mark.usefixtures("broken_appends")
def test_request_id_of_client_is_used(system: Service) -> None:
    with system.client("fan0") as client:
        answer = client.post("/v1/users/star/follow", headers={"X-Request-Id": "trace.7"})
    assert answer.status_code == 500 and answer.headers["x-request-id"] == "trace.7"
    assert lines_of(system, answer)[0].startswith("the request failed: ")


def test_warning_about_unreadable_keys_has_request_id(system: Service, tmp_path: Path) -> None:
    """A token with an unknown key id makes the process read the keys again, in a task of its own."""
    ensure_dev_key(tmp_path)
    stranger = sign(tmp_path, "bob", role="user", ttl_s=3600)
    keys = Path(system.environment["FOLLOWS_JWKS"])
    before = keys.read_text()
    keys.write_text(json.dumps({"keys": "none"}))
    try:
        with system.client("ann") as client:
            answer = client.get("/v1/users/me/following", headers={"Authorization": f"Bearer {stranger}"})
    finally:
        keys.write_text(before)
    assert any("keys not read" in text for text in lines_of(system, answer)), (
        answer.status_code,
        list(lines(system))[-3:],
    )


def test_line_of_no_request_has_dash_as_id(system: Service) -> None:
    assert ("-", "keys read: 1") in list(lines(system))


# The views' server as log lines name it, here behind a Unix socket.
REDIS = "the Redis at REDIS_URL"


def test_line_about_shared_connection_has_dash_as_id(system: Service, breakable: BreakableServers) -> None:
    """The first request opens the connection to the views, for all requests."""

    with system.client("ann") as client:

        def is_logged(text: str) -> bool:
            client.get("/v1/users/me/following")
            return any(text in line for _, line in lines(system))

        with breakable.valkey.down():
            wait_until(lambda: is_logged(f"{REDIS} does not answer"))
        wait_until(lambda: is_logged(f"{REDIS} answers again"))
    logged = [(name, text) for name, text in lines(system) if f"{REDIS} " in text]
    assert len(logged) >= 2 and {name for name, _ in logged} == {"-"}


def test_every_answer_has_one_request_id(system: Service) -> None:
    with system.client("ann") as client:
        for method, path in (
            ("GET", "/v1/users/nobody"),
            ("OPTIONS", "/kraken"),
            ("GET", "/kraken/users/nobody"),
            ("GET", "/health/ready"),
            ("GET", "/health/live"),
            ("GET", "/nothing"),
            ("GET", "/docs"),
        ):
            answer = client.request(method, path, headers={"X-Request-Id": "one-of-ours"})
            assert answer.headers.get_list("x-request-id") == ["one-of-ours"], path
