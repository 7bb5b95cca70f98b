"""Two installations that share a Redis: with different database numbers, or with one number and namespaces.

The Redis may also be a cluster, be behind sentinels, hold only the queue of both, or give each a user of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from tests.support.acl import acl_rules
from tests.support.cli_runner import Tools
from tests.support.servers import Servers, Service, fresh_database, running_service
from tests.support.valkey_cluster import ValkeyCluster, _cluster, cluster, start_node, stop_nodes, wait_until
from tests.support.valkey_sentinel import watched_servers

__all__ = ["_cluster", "cluster"]


@contextmanager
def installation(
    servers: Servers, redis_url: str, folder: Path, queue_url: str = "", **environment: str
) -> Iterator[Service]:
    """Run a service with a database of its own; its log has an id of its own, as every installation's."""
    folder.mkdir(mode=0o700)
    with fresh_database(servers) as url:
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE log_identity SET log_id = gen_random_uuid()")
        processes = ("web", "worker", "rebuilder")
        with running_service(
            url, redis_url, queue_url or redis_url, folder, processes=processes, environment=environment
        ) as service:
            yield service


def register(service: Service, *ids: str) -> None:
    """Register users, in order."""
    with service.client("platform", "service") as platform:
        for id_ in ids:
            assert platform.put(f"/v1/users/{id_}", json={}).status_code == 201


def follow_and_read(service: Service, follower: str, followed: str) -> None:
    """Follow; then read it, as the caller and as another process's caller does, in both dialects."""
    with service.client(follower) as caller:
        assert caller.post(f"/v1/users/{followed}/follow").status_code == 201
        read = caller.get(f"/v1/users/{followed}/follow-status")
        assert (read.status_code, read.json()["is_following"]) == (200, True), read.text
        page = caller.get(f"/v1/users/{followed}/followers")
        assert [row["id"] for row in page.json()["data"]] == [follower], page.text


def test_installations_with_different_numbers_do_not_hear_each_other(
    servers: Servers, redis_url: str, queue_url: str, tmp_path: Path
) -> None:
    """The first one's log is longer, and its workers publish positions that the second one's has not reached."""
    with (
        installation(servers, redis_url, tmp_path / "a") as one,
        installation(servers, queue_url, tmp_path / "b") as two,
    ):
        register(one, *(f"a{number}" for number in range(30)))
        register(two, "b1", "b2")
        follow_and_read(two, "b1", "b2")
        follow_and_read(one, "a1", "a2")
        follow_and_read(two, "b2", "b1")


def test_installations_with_namespaces_share_one_number(servers: Servers, redis_url: str, tmp_path: Path) -> None:
    """They have the same generations, users and partitions, and no key in common."""
    with (
        installation(servers, redis_url, tmp_path / "a", FOLLOWS_NAMESPACE="one") as one,
        installation(servers, redis_url, tmp_path / "b", FOLLOWS_NAMESPACE="two") as two,
    ):
        register(one, "ann", "bob")
        register(two, "cid", "dee", "ann", "bob")
        follow_and_read(one, "ann", "bob")
        with two.client("nobody") as caller:
            assert caller.get("/v1/users/bob/followers").json()["data"] == []
        follow_and_read(two, "ann", "bob")
        with Redis.from_url(redis_url) as client:
            names = {name.decode() for name in client.scan_iter(count=1000)}
    arqs = {name for name in names if name.startswith("arq:")}
    assert {name.partition(":")[0] for name in names - arqs} == {"one", "two"}
    assert all(name.split(":", 2)[2].startswith(("one:", "two:")) for name in arqs)


@pytest.mark.parametrize("name", ["a*", "a{b}", "a b", "x" * 33])
def test_namespace_that_keys_cannot_carry_is_refused(
    name: str, servers: Servers, redis_url: str, tmp_path: Path
) -> None:
    refused = pytest.raises(AssertionError, match="FOLLOWS_NAMESPACE must be at most 32 letters, digits, - and _")
    with refused, installation(servers, redis_url, tmp_path / "a", FOLLOWS_NAMESPACE=name):
        pass


@contextmanager
def two_installations(
    servers: Servers, urls: tuple[str, str], folder: Path, queue_url: str = "", namespaces: tuple[str, str] = ("", "")
) -> Iterator[tuple[Service, Service]]:
    """Run two installations, and leave each with users of its own who follow each other."""
    one, two = ({"FOLLOWS_NAMESPACE": name} for name in namespaces)
    with (
        installation(servers, urls[0], folder / "a", queue_url, **one) as first,
        installation(servers, urls[1], folder / "b", queue_url, **two) as second,
    ):
        register(first, *(f"a{number}" for number in range(20)), "ann", "bob")
        register(second, "cid", "dee", "ann", "bob")
        follow_and_read(second, "ann", "bob")
        with first.client("nobody") as caller:
            assert caller.get("/v1/users/bob/followers").json()["data"] == []
        follow_and_read(first, "a1", "bob")
        follow_and_read(second, "cid", "dee")
        yield first, second


def rebuild_by_job(service: Service) -> Tools:
    """Have the rebuilder build the second generation; return the tools of the installation."""
    tools = Tools(service.environment)
    done = tools.follows_process("rebuild", "--job")
    assert done.code == 0, done
    wait_until(lambda: "*    2  live" in tools.follows_process("generations").out)
    return tools


def test_installations_with_one_queue_for_both(
    servers: Servers, redis_url: str, queue_url: str, tmp_path: Path
) -> None:
    queue = servers.valkey_url(int(queue_url.rpartition("=")[2]) - 2)
    with two_installations(servers, (redis_url, queue_url), tmp_path, queue) as (first, second):
        rebuild_by_job(first)
        rebuild_by_job(second)


def test_installations_on_a_cluster(servers: Servers, cluster: ValkeyCluster, redis_url: str, tmp_path: Path) -> None:
    """It has no database numbers, so they have namespaces; their queue is another server."""
    both = (cluster.url, cluster.url)
    with two_installations(servers, both, tmp_path, redis_url, ("one", "two")) as (first, second):
        rebuild_by_job(first)
        rebuild_by_job(second)


def test_installations_behind_the_same_sentinels(servers: Servers, tmp_path: Path) -> None:
    with watched_servers(tmp_path) as watched:
        urls = (watched.url, f"{watched.url[:-1]}1")
        with two_installations(servers, urls, tmp_path) as (first, second):
            watched.fail_over()
            for service, follower, followed in ((first, "a2", "ann"), (second, "dee", "cid")):
                with service.client(follower) as caller:
                    path = f"/v1/users/{followed}/follow"
                    wait_until(lambda: caller.post(path).status_code in (201, 409))  # noqa: B023
                    wait_until(lambda: caller.get(f"{path}-status").json().get("is_following") is True)  # noqa: B023


def test_installations_with_users_that_see_only_their_namespace(servers: Servers, tmp_path: Path) -> None:
    """The users are those of docs/operate.md. The server notes each command that it refuses; none was, by any tool."""
    server = start_node(tmp_path / "server", {})
    try:
        wait_until(lambda: bool(server.client.ping()))
        for name in ("one", "two"):
            server.ask("ACL", "SETUSER", name, "on", f">{name}", *acl_rules(name))
        urls = (f"redis://one:one@127.0.0.1:{server.port}/0", f"redis://two:two@127.0.0.1:{server.port}/0")
        with two_installations(servers, urls, tmp_path, namespaces=("one", "two")) as (first, second):
            rebuild_by_job(second)
            tools = rebuild_by_job(first)
            for words in (
                ("rebuild",),
                ("undo-switch",),
                ("verify", "--repair"),
                ("generations", "diff", "2", "3"),
                ("generations", "prune"),
                ("status",),
            ):
                done = tools.follows_process(*words)
                assert done.code == 0, (words, done)
        assert server.ask("ACL", "LOG") == []
        with Redis.from_url(urls[0]) as client, pytest.raises(NoPermissionError):
            client.get("two:follows:live-view")
    finally:
        stop_nodes([server])
