"""No secret gets out: not into logs at their most talkative, nor answers, errors of the command line, command lines.

There is no metrics endpoint that could tell any.
"""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from redis import Redis

from cli.dev_key import JWKS_FILE, KEY_FILE, ensure_dev_key
from cli.procfile import ROOT
from tests.breakable import BreakableServers, wait_until
from tests.servers import Service, running_service

LIMIT_S = 60.0
DATABASE_PASSWORD, STORE_PASSWORD, JWKS_PASSWORD = "pw-of-the-log-77", "pw-of-the-store-77", "pw-of-the-keys-77"
PERSONAL = {"email": "ann.secret@example.org", "display_name": "Ann Secretperson", "bio": "my secret bio 77"}


@contextmanager
def key_server(folder: Path) -> Iterator[str]:
    """The folder's key set by http; the address holds a password."""
    content = (folder / JWKS_FILE).read_bytes()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: this server is the test's."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://keys:{JWKS_PASSWORD}@127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()
        thread.join()


def let_in(breakable: BreakableServers) -> None:
    """Give Valkey a user with a password, whom it knows until it ends."""
    with Redis.from_url(breakable.valkey.url) as client:
        client.execute_command("ACL", "SETUSER", "follows", "on", f">{STORE_PASSWORD}", "~*", "&*", "+@all")


@pytest.fixture
def talkative(breakable: BreakableServers, service_folder: Path) -> Iterator[Service]:
    """A service at DEBUG whose every address holds a password."""
    ensure_dev_key(service_folder)
    let_in(breakable)
    login = f"follows:{STORE_PASSWORD}@"
    views, queue = (url.replace("unix://", f"unix://{login}") for url in (breakable.valkey.url, breakable.queue_url))
    database = breakable.postgres.url.replace("postgres@", f"postgres:{DATABASE_PASSWORD}@")
    assert DATABASE_PASSWORD in database and STORE_PASSWORD in views
    with key_server(service_folder) as jwks:
        settings = {"FOLLOWS_LOG_LEVEL": "DEBUG", "FOLLOWS_JWKS": jwks}
        processes = ("web", "worker", "rebuilder")
        with running_service(
            database, views, queue, service_folder, processes=processes, environment=settings
        ) as service:
            yield service


def speak(service: Service, breakable: BreakableServers, tokens: list[str]) -> str:
    """A small life with tokens in every place, good and bad, and with servers that go away; all error answers."""
    answers: list[httpx.Response] = []
    good, platform = (
        service.token("ann", "user", ("user_read", "user_follows_edit"), **PERSONAL),
        service.token("p", "service"),
    )
    spoilt = good[:-8] + "AAAAAAAA"
    tokens += [good, platform, spoilt]
    with httpx.Client(base_url=service.base_url, trust_env=False, timeout=30) as http_:

        def call(method: str, path: str, token: str = good, **arguments: object) -> httpx.Response:
            answer = http_.request(method, path, headers={"Authorization": f"Bearer {token}"}, **arguments)  # type: ignore[arg-type]
            answers.append(answer)
            return answer

        for user in ("ann", "bob"):
            call("PUT", f"/v1/users/{user}", platform, json={**PERSONAL, "username": user})
        path = "/kraken/users/ann/follows/channels/bob"
        assert call("POST", "/v1/users/bob/follow").status_code == 201
        for token in (good, spoilt):
            call("GET", "/v1/users/me/following", token)
            call("GET", "/kraken/user", token)
            answers.append(http_.get(path, params={"oauth_token": token}))
            answers.append(http_.put(path, data={"oauth_token": token, "notifications": "maybe"}))
            answers.append(http_.get(path, params={"oauth_token": token, "callback": "f", "_method": "PUT"}))
        call("PUT", "/v1/users/bob", platform, json={"bio": PERSONAL["bio"], "delay": -1})
        call("PUT", "/v1/users/bob", platform, content=b'{"bio": "my secret bio 77')
        with breakable.postgres.down():
            assert call("DELETE", "/v1/users/bob/follow").status_code == 503
            call("PUT", "/v1/users/bob", platform, json=PERSONAL)
        with breakable.valkey.down():
            assert call("GET", "/v1/users/me/following").status_code == 503
        let_in(breakable)
        wait_until(lambda: call("GET", "/v1/users/me/following").status_code == 200)
    return "\n".join(f"{answer.headers} {answer.text}" for answer in answers if answer.status_code >= 400)


def commanded(service: Service, *words: str) -> tuple[int, str]:
    """How ``follows words...`` ends where the service's own settings hold, and all that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words],
        cwd=ROOT,
        env=dict(service.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def misuse(service: Service, breakable: BreakableServers) -> str:
    """What the command line says: of a rebuild by the rebuilder, and of its errors, also while a server is away."""
    said = {"job": commanded(service, "rebuild", "--job"), "nobody": commanded(service, "history", "nobody")}
    with breakable.postgres.down():
        said["no log"] = commanded(service, "status")
    with breakable.valkey.down():
        said["no views"] = commanded(service, "lag")
    let_in(breakable)
    wrong = {name: code for name, (code, _) in said.items() if (code == 0) != (name == "job")}
    assert not wrong, (wrong, said)
    return "\n".join(text for _, text in said.values())


def processes(service: Service) -> str:
    """The command lines of the service's processes, as anybody on the machine may read them."""
    roots = [psutil.Process(child.pid) for child in service.processes.values()]
    return "\n".join(" ".join(p.cmdline()) for root in roots for p in (root, *root.children(recursive=True)))


def test_nothing_of_it_gets_out(talkative: Service, breakable: BreakableServers) -> None:
    tokens: list[str] = []
    said = {"an answer": speak(talkative, breakable, tokens), "a process": processes(talkative)}
    said["the command line"] = misuse(talkative, breakable)
    for path in ("/metrics", "/v1/metrics", "/kraken/metrics", "/health/metrics"):
        assert httpx.get(f"{talkative.base_url}{path}", trust_env=False).status_code in (401, 404), path
    for name in ("worker", "rebuilder", "web"):
        talkative.stop(name)
    said["a log"] = talkative.logs()
    assert (talkative.folder / "rebuilder.log").read_text().strip()
    assert "DEBUG" in said["a log"] and "granian" in said["a process"] and "401" in said["an answer"]
    pem = [line for line in (talkative.folder / KEY_FILE).read_text().splitlines() if not line.startswith("-")]
    secrets = [part for token in tokens for part in token.split(".")[1:]]
    secrets += [DATABASE_PASSWORD, STORE_PASSWORD, JWKS_PASSWORD, *PERSONAL.values(), *pem]
    for where, text in said.items():
        found = [secret for secret in secrets if secret in text]
        assert not found, f"{where} holds {found}:\n" + "\n".join(
            line for line in text.splitlines() if any(secret in line for secret in found)
        )
