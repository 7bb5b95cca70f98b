"""The product on Debian's PostgreSQL and Redis, over each way to reach them, from the first user to a restart."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from uuid import uuid4

import httpx
import pytest

from tests.servers.conftest import path_of
from tests.support.acl import acl_rules
from tests.support.breakable_servers import Breakable, wait_until
from tests.support.certificates import certificate_for_loopback
from tests.support.cli_runner import Tools
from tests.support.packaged_servers import PASSWORD, QUOTED, packaged_postgres, packaged_redis
from tests.support.servers import Service, free_port, running_service

NAMESPACE = "site"
FOLLOW = "/v1/users/bob/follow"
# `follows verify` prints it where it finds no difference.
EQUAL = "all equal"


class Reached(NamedTuple):
    """How Redis is reached: the addresses of views and queue, the settings of Redis, and those of the service."""

    views: str
    queue: str
    redis: dict[str, str]
    service: dict[str, str]


def over_tcp(_: Path) -> Reached:
    """As it comes, without a password."""
    url, port = "redis://127.0.0.1", free_port()
    return Reached(f"{url}:{port}/0", f"{url}:{port}/1", {"port": str(port)}, {})


def over_socket(folder: Path) -> Reached:
    """Without a port."""
    socket = folder / "redis.sock"
    settings = {"port": "0", "unixsocket": str(socket), "unixsocketperm": "700"}
    return Reached(f"unix://{socket}?db=0", f"unix://{socket}?db=1", settings, {})


def over_tls(folder: Path) -> Reached:
    """With TLS alone, and with the user of docs/operate.md alone."""
    certificate, port = certificate_for_loopback(folder), str(free_port())
    settings = {
        "port": "0",
        "tls-port": port,
        "tls-cert-file": str(certificate),
        "tls-key-file": str(certificate),
        "tls-ca-cert-file": str(certificate),
        "tls-auth-clients": "no",
        "user default": "off",
        "user follows": f'on ">{PASSWORD}" {" ".join(acl_rules(NAMESPACE))}',
    }
    address = f"rediss://follows:{QUOTED}@127.0.0.1:{port}"
    options = f"ssl_ca_certs={certificate}"
    return Reached(f"{address}/0?{options}", f"{address}/1?{options}", settings, {"FOLLOWS_NAMESPACE": NAMESPACE})


class World(NamedTuple):
    """The servers and a service on them."""

    postgres: Breakable
    redis: Breakable
    service: Service
    tools: Tools


@pytest.fixture(params=[over_tcp, over_socket, over_tls])
def world(request: pytest.FixtureRequest, tmp_path: Path, service_folder: Path) -> Iterator[World]:
    """All processes on a migrated database. These servers keep what they have acknowledged, so nothing is waived."""
    with TemporaryDirectory(prefix="follows-") as short:  # a socket's path has at most 107 bytes
        reached = request.param(Path(short))
        with (
            packaged_postgres(Path(path_of("postgres")).parent, tmp_path) as postgres,
            packaged_redis(path_of("redis-server"), tmp_path, reached.views, reached.redis) as redis,
        ):
            settings = {**reached.service, "FOLLOWS_ALLOW_ASYNC_COMMIT": ""}
            migrated = Tools({**settings, "DATABASE_URL": postgres.url}).follows_process("migrate")
            assert migrated.code == 0, migrated
            urls = (postgres.url, reached.views, reached.queue)
            processes = ("web", "worker", "rebuilder")
            with running_service(*urls, service_folder, processes=processes, environment=settings) as service:
                yield World(postgres, redis, service, Tools(service.environment))


def test_short_story(world: World) -> None:
    """Register, follow, see it in both dialects, unfollow, erase, rebuild, verify; then restart each server."""
    service = world.service
    with service.client("platform", "service") as platform, service.client("ann") as ann, service.client("cat") as cat:
        for user in ("ann", "bob", "cat"):
            assert platform.put(f"/v1/users/{user}", json={"username": f"{user}-login"}).status_code == 201
        assert ann.post(FOLLOW).status_code == 201
        assert followers_of_bob(ann) == ["ann"]
        assert ann.delete(FOLLOW).status_code == 204
        assert followers_of_bob(ann) == []
        assert ann.post(FOLLOW).status_code == 201
        assert cat.post(FOLLOW).status_code == 201
        assert followers_of_bob(cat) == ["cat", "ann"]
        assert platform.delete("/v1/users/cat").status_code == 204
        wait_until(lambda: followers_of_bob(ann) == ["ann"])
        run(world.tools, "rebuild")
        run(world.tools, "rebuild", "--job")
        assert EQUAL in run(world.tools, "verify")
        checked = world.tools.follows_process("check", "--json").json
        assert not [found for found in checked["findings"] if found["result"] == "fail"], checked
        before = run(world.tools, "generations")
        for server in (world.redis, world.postgres):
            server.restart()
            for method, status in (("DELETE", 204), ("POST", 201)):  # as soon as it is answered, once
                key = {"Idempotency-Key": str(uuid4())}
                wait_until(lambda: ann.request(method, FOLLOW, headers=key).status_code == status)  # noqa: B023
            wait_until(lambda: followers_of_bob(ann) == ["ann"])
        after = run(world.tools, "generations")
        assert len(after.splitlines()) == len(before.splitlines()), after  # Redis came back with its views
        assert EQUAL in run(world.tools, "verify")
    assert "Traceback" not in service.logs()


def followers_of_bob(client: httpx.Client) -> list[str] | None:
    """Return bob's followers, newest first, as both dialects list them; None while that cannot be read or differs."""
    answers = [client.get("/v1/users/bob/followers"), client.get("/kraken/channels/bob-login/follows")]
    if any(answer.status_code == 503 for answer in answers):
        return None
    v1, kraken = (answer.raise_for_status().json() for answer in answers)
    found = [row["id"] for row in v1["data"]]
    return found if [row["user"]["name"] for row in kraken["follows"]] == [f"{user}-login" for user in found] else None


def run(tools: Tools, *words: str) -> str:
    """Run a command of `follows` and return its output."""
    done = tools.follows_process(*words)
    assert done.code == 0, (words, done)
    return done.out
