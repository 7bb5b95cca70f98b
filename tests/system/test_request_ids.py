"""Every line that a web process logs while it serves a request carries the id that the answer has in its header."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from cli.dev_key import ensure_dev_key, sign
from tests.breakable import BreakableServers, wait_until
from tests.servers import Service

LINE = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR) [a-zA-Z0-9_.]+ \[([^ ]+)\] ?(.*)")
# The server's own, which knows nothing of requests.
SERVERS = re.compile(r"\[(?:INFO|WARNING)\] ")
# A statement that fails as none of ours does, and with it the commands that need it.
BREAK = "ALTER FUNCTION append_events RENAME TO mislaid"
MEND = "ALTER FUNCTION mislaid RENAME TO append_events"
AT_ONCE = 6


def lines(service: Service) -> Iterator[tuple[str, str]]:
    """What the web process said, line by line: (id, text); fails on a line that names none."""
    for line in (service.folder / "web.log").read_text().splitlines():
        if SERVERS.match(line):
            continue
        found = LINE.fullmatch(line)
        assert found is not None, line
        yield found[1], found[2]


def of(service: Service, answer: httpx.Response) -> list[str]:
    """What was said while this request was served."""
    return [text for name, text in lines(service) if name == answer.headers["x-request-id"]]


@pytest.fixture
def mislaid(system: Service) -> Iterator[None]:
    """No follow can be written meanwhile, by a fault that nobody foresaw."""
    with system.client("platform", "service") as client:
        for user in ("star", *(f"fan{number}" for number in range(AT_ONCE))):
            assert client.put(f"/v1/users/{user}", json={}).status_code in (200, 201)
    with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as log:
        log.execute(BREAK)
        try:
            yield
        finally:
            log.execute(MEND)


@pytest.mark.usefixtures("mislaid")
def test_a_fault_of_ours_and_each_line_of_its_traceback(system: Service) -> None:
    answers: list[httpx.Response] = []

    def act(number: int) -> None:
        with system.client(f"fan{number}", scopes=["user_follows_edit"]) as client:
            answers.append(client.post("/v1/users/star/follow"))
            answers.append(client.put(f"/kraken/users/fan{number}/follows/channels/star"))

    threads = [threading.Thread(target=act, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [500] * 2 * AT_ONCE
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    for answer in answers:
        first, *traceback = of(system, answer)
        assert first.startswith("the request failed: ") and traceback[0].lstrip().startswith("File ")


@pytest.mark.usefixtures("mislaid")
def test_the_clients_own_id(system: Service) -> None:
    with system.client("fan0") as client:
        answer = client.post("/v1/users/star/follow", headers={"X-Request-Id": "trace.7"})
    assert answer.status_code == 500 and answer.headers["x-request-id"] == "trace.7"
    assert of(system, answer)[0].startswith("the request failed: ")


def test_keys_that_cannot_be_read(system: Service, tmp_path: Path) -> None:
    """A warning from deep below the gate: for a key that nobody knows the keys are read again, in a task of its own."""
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
    assert any("keys not read" in text for text in of(system, answer)), (answer.status_code, list(lines(system))[-3:])


def test_what_is_of_no_request(system: Service) -> None:
    assert ("-", "keys read: 1") in list(lines(system))


def test_what_is_of_several_requests_names_none_of_them(system: Service, breakable: BreakableServers) -> None:
    """The connection to the views is opened by whoever comes first, for everybody."""

    with system.client("ann") as client:

        def is_said(text: str) -> bool:
            client.get("/v1/users/me/following")
            return any(text in line for _, line in lines(system))

        with breakable.valkey.down():
            wait_until(lambda: is_said("the read store does not answer"))
        wait_until(lambda: is_said("the read store answers again"))
    said = [(name, text) for name, text in lines(system) if "the read store " in text]
    assert len(said) >= 2 and {name for name, _ in said} == {"-"}


def test_every_answer_has_one(system: Service) -> None:
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
