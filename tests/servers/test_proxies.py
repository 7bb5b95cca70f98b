"""Two web processes behind HAProxy and nginx, which run the files of deploy/."""

import http.client
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from cli.dev.dev_key import ensure_dev_key
from tests.servers.conftest import path_of
from tests.support.breakable_servers import wait_until
from tests.support.proxies import running_proxy
from tests.support.raw_requests import exchange
from tests.support.rolling import Site, load, register
from tests.support.servers import Servers, fresh_database, running_service

# Requests a minute of one address without a token.
ADDRESS_LIMIT = 20
CALLED = "follows.example:8443"


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def site(request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two web processes and a worker with the usual grace; the proxy's address is the only one that is used."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two", "proxy")]
    settings = {
        "FOLLOWS_JWKS": str(ensure_dev_key(folders[0])),
        "FOLLOWS_TRUST_PROXY": "1",
        "FOLLOWS_RATE_LIMIT_ADDRESS": str(ADDRESS_LIMIT),
        "FOLLOWS_GRACE_S": "",
    }
    with fresh_database(servers) as database:
        urls = database, servers.valkey_url(0), servers.valkey_url(1)
        with (
            running_service(*urls, folders[0], environment=settings) as one,
            running_service(*urls, folders[1], processes=("web",), environment=settings) as two,
        ):
            web = [service.base_url.removeprefix("http://") for service in (one, two)]
            with running_proxy(path_of(request.param), folders[2], web) as running:
                made = Site(one, two, (f"http://{running.address}",))
                register(made)
                yield made


@pytest.fixture
def proxy(site: Site) -> str:
    """The URL of the proxy."""
    return site.ready[0]


def test_client_without_token_is_counted_by_its_own_address(site: Site, proxy: str) -> None:
    """The header that the client itself sends does not count."""

    def statuses(own: str, times: int) -> list[int]:
        transport = httpx.HTTPTransport(local_address=own)
        with httpx.Client(base_url=proxy, transport=transport) as client:
            headers = [{"X-Forwarded-For": f"203.0.113.{number}"} for number in range(times)]
            return [client.get("/kraken/channels/nobody/follows", headers=one).status_code for one in headers]

    assert statuses("127.0.0.2", ADDRESS_LIMIT + 1)[-2:] == [404, 429]
    assert statuses("127.0.0.3", 1) == [404]


def test_links_have_the_host_that_the_client_called(site: Site, proxy: str) -> None:
    """Not one that the client names in another header. Links of /v1 have no host."""
    headers = {"Host": CALLED, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    with site.one.client("client-0", scopes=["user_read"]) as client:
        for sent, called in ((headers, f"http://{CALLED}"), ({}, proxy)):
            listed = client.get(f"{proxy}/kraken/streams/followed", headers=sent).raise_for_status()
            assert listed.json()["_links"]["self"].startswith(f"{called}/kraken/streams/followed?")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("host", ["", "Host: follows.example\r\n"])
def test_old_health_check(site: Site, proxy: str, method: str, host: str) -> None:
    """By HTTP/1.0, through the proxy and beside it."""
    for url in (proxy, site.one.base_url):
        name, _, port = url.removeprefix("http://").partition(":")
        answer = exchange((name, int(port)), f"{method} /health/ready HTTP/1.0\r\n{host}\r\n".encode(), ends=False)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == (b"200"), answer
        assert (body == b"") == (method == "HEAD"), answer


def test_head_is_get_without_its_body(site: Site, proxy: str) -> None:
    with site.caller("client-0") as client:
        for path in ("/health/live", "/v1/users/star/followers", "/v1/users/nobody", "/kraken/channels/nobody"):
            got, head = client.get(f"{proxy}{path}"), client.head(f"{proxy}{path}")
            assert (head.status_code, head.content) == (got.status_code, b"")
            for name in ("content-type", "content-length", "cache-control"):
                assert head.headers[name] == got.headers[name], (path, name)


def test_restart_of_each_web_process_fails_no_request(site: Site) -> None:
    with load(site):
        for service in (site.one, site.two):
            site.go_on()
            service.stop("web")
            site.go_on()
            service.start("web")
            service.wait_ready()
            site.go_on()
    site.judge()


@pytest.mark.parametrize("site", ["haproxy"], indirect=True)
def test_haproxy_that_is_replaced_answers_on_idle_connections(site: Site, tmp_path: Path) -> None:
    """As at a reload: the old process stops when its clients have left, and tells them so with an answer."""
    web = [service.base_url.removeprefix("http://") for service in (site.one, site.two)]
    with running_proxy(path_of("haproxy"), tmp_path, web) as running:
        connection = http.client.HTTPConnection(running.address)
        with closing(connection):
            assert _get_health(connection) == (200, None)
            running.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: _refuses(running.address))
            assert _get_health(connection) == (200, "close")


def _get_health(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    connection.request("GET", "/health/live")
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("Connection")


def _refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
        return False
    return True
