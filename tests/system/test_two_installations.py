"""Two installations that share a Redis: with different database numbers, or with one number and namespaces."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from tests.support.servers import Servers, Service, fresh_database, running_service


@contextmanager
def installation(servers: Servers, redis_url: str, folder: Path, **environment: str) -> Iterator[Service]:
    """Run a service with a database of its own; its log has an id of its own, as every installation's."""
    folder.mkdir(mode=0o700)
    with fresh_database(servers) as url:
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE log_identity SET log_id = gen_random_uuid()")
        with running_service(url, redis_url, redis_url, folder, environment=environment) as service:
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
