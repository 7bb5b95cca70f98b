"""No secret appears in logs at DEBUG, in answers, in metrics, in spans, in output of the command line or in command
lines of processes."""

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

from cli.dev.dev_key import JWKS_FILE, KEY_FILE, ensure_dev_key
from cli.dev.processes import ROOT
from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.collector import Collector, collecting
from tests.support.scraped import PROCESSES, ask, metrics_settings
from tests.support.servers import Service, running_service

COMMAND_TIMEOUT_S = 60.0
DATABASE_PASSWORD, STORE_PASSWORD, JWKS_PASSWORD = "pw-of-the-log-77", "pw-of-the-store-77", "pw-of-the-keys-77"
PERSONAL = {"email": "ann.secret@example.org", "display_name": "Ann Secretperson", "bio": "my secret bio 77"}


@contextmanager
def key_server(folder: Path) -> Iterator[str]:
    """Serve the folder's key set over HTTP; yield its address, which has a password in it."""
    content = (folder / JWKS_FILE).read_bytes()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log nothing: this server belongs to the test."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://keys:{JWKS_PASSWORD}@127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()
        thread.join()


def add_user(breakable: BreakableServers) -> None:
    """Add a user with a password to Valkey; a restart of Valkey removes it."""
    with Redis.from_url(breakable.valkey.url) as client:
        client.execute_command("ACL", "SETUSER", "follows", "on", f">{STORE_PASSWORD}", "~*", "&*", "+@all")


@pytest.fixture
def collector() -> Iterator[Collector]:
    """What the processes send spans to."""
    with collecting() as server:
        yield server


@pytest.fixture
def debug_service(breakable: BreakableServers, service_folder: Path, collector: Collector) -> Iterator[Service]:
    """A service that logs at DEBUG, as JSON and with each request, sends spans, and has a password in each of its
    addresses."""
    ensure_dev_key(service_folder)
    add_user(breakable)
    login = f"follows:{STORE_PASSWORD}@"
    views, queue = (url.replace("unix://", f"unix://{login}") for url in (breakable.valkey.url, breakable.queue_url))
    database = breakable.postgres.url.replace("postgres@", f"postgres:{DATABASE_PASSWORD}@")
    assert DATABASE_PASSWORD in database and STORE_PASSWORD in views
    with key_server(service_folder) as jwks:
        settings = {
            "FOLLOWS_LOG_LEVEL": "DEBUG",
            "FOLLOWS_LOG_FORMAT": "json",
            "FOLLOWS_REQUEST_LOG": "1",
            "FOLLOWS_TRACES": "1",
            "FOLLOWS_JWKS": jwks,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        }
        with running_service(
            database,
            views,
            queue,
            service_folder,
            processes=PROCESSES,
            environment=settings,
            own=metrics_settings(),
        ) as service:
            yield service


def use(service: Service, breakable: BreakableServers, tokens: list[str]) -> str:
    """Send requests with good and bad tokens in every place, also while servers are down; return all error answers."""
    answers: list[httpx.Response] = []
    good, platform = (
        service.token("ann", "user", ("user_read", "user_follows_edit"), **PERSONAL),
        service.token("p", "service"),
    )
    broken = good[:-8] + "AAAAAAAA"
    tokens += [good, platform, broken]
    sampled = {"traceparent": f"00-{'a' * 32}-{'c' * 16}-01"}
    with httpx.Client(base_url=service.base_url, headers=sampled, trust_env=False, timeout=30) as http_:

        def call(method: str, path: str, token: str = good, **arguments: object) -> httpx.Response:
            answer = http_.request(method, path, headers={"Authorization": f"Bearer {token}"}, **arguments)  # type: ignore[arg-type]
            answers.append(answer)
            return answer

        for user in ("ann", "bob"):
            call("PUT", f"/v1/users/{user}", platform, json={**PERSONAL, "username": user})
        path = "/kraken/users/ann/follows/channels/bob"
        call("DELETE", "/v1/users/bob/follow")  # tests of other files use these names on the same servers
        assert call("POST", "/v1/users/bob/follow").status_code == 201
        for token in (good, broken):
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
        add_user(breakable)
        wait_until(lambda: call("GET", "/v1/users/me/following").status_code == 200)
    return "\n".join(f"{answer.headers} {answer.text}" for answer in answers if answer.status_code >= 400)


def follows(service: Service, *words: str) -> tuple[int, str]:
    """Run ``follows words...`` with the service's settings; return its exit code and output."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words],
        cwd=ROOT,
        env=dict(service.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def misuse(service: Service, breakable: BreakableServers) -> str:
    """Run a command that succeeds and some that fail, also while a server is down; return their output."""
    ran = {"job": follows(service, "rebuild", "--job"), "unknown user": follows(service, "history", "nobody")}
    with breakable.postgres.down():
        ran["no log"] = follows(service, "status")
    with breakable.valkey.down():
        ran["no views"] = follows(service, "verify")
    add_user(breakable)
    wrong = {name: code for name, (code, _) in ran.items() if (code == 0) != (name == "job")}
    assert not wrong, (wrong, ran)
    return "\n".join(text for _, text in ran.values())


def processes(service: Service) -> str:
    """Return the command lines of the service's processes, which every user of the machine can read."""
    roots = [psutil.Process(child.pid) for child in service.processes.values()]
    return "\n".join(" ".join(p.cmdline()) for root in roots for p in (root, *root.children(recursive=True)))


def test_secrets_are_in_no_log_answer_output_span_or_command_line(
    debug_service: Service, breakable: BreakableServers, collector: Collector
) -> None:
    tokens: list[str] = []
    texts = {"an answer": use(debug_service, breakable, tokens), "a process": processes(debug_service)}
    texts["the command line"] = misuse(debug_service, breakable)
    for name in PROCESSES:
        paths = ("/metrics", "/health/live", "/health/ready")
        texts[f"a metric of {name}"] = "\n".join(ask(debug_service.own, name, path).text for path in paths)
        assert "follows_process_ready" in texts[f"a metric of {name}"]
    for path in ("/metrics", "/v1/metrics", "/kraken/metrics", "/health/metrics"):
        assert httpx.get(f"{debug_service.base_url}{path}", trust_env=False).status_code in (401, 404), path
    for name in ("worker", "rebuilder", "web"):
        debug_service.stop(name)
    texts["a log"] = debug_service.logs()
    assert (debug_service.folder / "rebuilder.log").read_text().strip()
    for kind in ("web", "worker"):
        assert collector.spans(kind)
    texts["a span"] = b"\n".join(collector.bodies).decode("latin-1")
    assert '"logger":"requests"' in texts["a log"]
    assert "DEBUG" in texts["a log"] and "-m cli web" in texts["a process"] and "401" in texts["an answer"]
    pem = [line for line in (debug_service.folder / KEY_FILE).read_text().splitlines() if not line.startswith("-")]
    secrets = [part for token in tokens for part in token.split(".")[1:]]
    secrets += [DATABASE_PASSWORD, STORE_PASSWORD, JWKS_PASSWORD, *PERSONAL.values(), *pem]
    for where, text in texts.items():
        found = [secret for secret in secrets if secret in text]
        assert not found, f"{where} holds {found}:\n" + "\n".join(
            line for line in text.splitlines() if any(secret in line for secret in found)
        )
