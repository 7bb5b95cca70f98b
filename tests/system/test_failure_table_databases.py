"""Rows of the table "What happens when": other databases, addresses and copies, and processes killed or stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
from redis import Redis

from cli.dev.embedded import embedded
from commands.db.identity import SERVER_RUN
from commands.users import placeholder
from tests.support.beside import beside
from tests.support.breakable_servers import wait_until
from tests.support.database_copies import base_backup
from tests.support.network import redis_socket
from tests.support.proxy import postgres_socket
from tests.support.resetting_server import resetting_server
from tests.support.two_services import Caller, TwoServices, number_of

# What a worker says that must not feed the Redis which it finds.
REFUSED = "this worker projects nothing"
DISPUTED = "two databases feed this Redis"
SLOW_RATE = "20"
TOOL_S = 60.0


def tool(world: TwoServices, *words: str, **environment: str) -> str:
    """Run a command of the command line, whatever it exits with; return what it prints."""
    settings = {**world.services[0].environment, **world.services[0].own["worker"], **environment}
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=TOOL_S, check=False).stdout


def worker_log(world: TwoServices, at: int) -> str:
    return (world.services[at].folder / "worker.log").read_text()


@contextmanager
def other_workers(world: TwoServices, **environment: str) -> Iterator[None]:
    """Run the workers with other settings for the length of the block."""
    for service in world.services:
        service.stop("worker")
        own = {**service.own, "worker": {**service.own["worker"], **environment}}
        replace(service, own=own).start("worker")
    try:
        yield
    finally:
        for service in world.services:
            service.stop("worker")
            service.start("worker")


# ---- processes


def test_rebuild_killed(world: TwoServices, sql: psycopg.Connection[Any]) -> None:
    ann, bob, cem = world.people(3)
    generations = """SELECT number, state FROM generations WHERE state IN ('building', 'live')
        AND store = (SELECT store FROM generations ORDER BY number DESC LIMIT 1)"""
    [(before, _)] = sql.execute(generations).fetchall()
    settings = {**world.services[0].environment, **world.services[0].own["worker"]}
    command = [sys.executable, "-m", "cli", "rebuild", "--rate", SLOW_RATE]
    with subprocess.Popen(command, env=settings, start_new_session=True) as killed:
        wait_until(lambda: len(sql.execute(generations).fetchall()) == 2)
        os.killpg(killed.pid, signal.SIGKILL)
    assert ann.follow(cem) == 201
    assert [ann.sees_at_last(cem, 1), ann.sees(bob), world.list_without_token(bob)] == [True, True, 200]
    world.tool("rebuild")
    [(after, state)] = sql.execute(generations).fetchall()
    assert after > before and state == "live"
    assert [ann.sees_at_last(user) for user in (bob, cem)] == [True, True]


def test_worker_stopped_and_continued(world: TwoServices) -> None:
    """Whichever partitions it has, the other one takes them."""
    ann, *others = world.people(6)
    stopped = world.services[1].processes["worker"].pid
    os.killpg(stopped, signal.SIGSTOP)
    try:
        assert {ann.follow(other) for other in others[1:]} == {201}
        assert {ann.sees_at_last(other) for other in others} == {True}
    finally:
        os.killpg(stopped, signal.SIGCONT)
    assert {ann.call("DELETE", f"/v1/users/{other.id}/follow").status_code for other in others} == {204}
    assert {ann.sees_at_last(other, at) for other in others for at in (0, 1)} == {False}


# ---- the log and its addresses


def test_events_of_missing_users(world: TwoServices, sql: psycopg.Connection[Any]) -> None:
    ann, bob, cem = world.people(3)
    number = number_of(sql, bob)
    columns = "number, id, login, display_name, profile"
    [row] = sql.execute(f"SELECT {columns} FROM users WHERE number = %s".encode(), [number]).fetchall()
    with without_triggers(sql):
        sql.execute("DELETE FROM users WHERE number = %s", [number])
    try:
        world.tool("rebuild")
        assert ann.follow(cem) == 201 and ann.sees_at_last(cem) is True
        wait_until(lambda: following(ann) == {cem.id, placeholder(number)})  # 503 until that partition is as far
        assert f"#{number}" in tool(world, "verify")
        assert "was followed by" in tool(world, "history", f"#{number}")
    finally:
        with without_triggers(sql):
            sql.execute(
                f"INSERT INTO users ({columns}) OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s)".encode(),
                [*row[:4], psycopg.types.json.Jsonb(row[4])],
            )
    world.tool("rebuild")
    world.services[1].stop("web")  # the other one has read the placeholder within the last minute
    world.services[1].start("web")
    wait_until(lambda: world.is_up(1))
    wait_until(lambda: following(ann, 1) == {cem.id, bob.id})


@contextmanager
def without_triggers(sql: psycopg.Connection[Any]) -> Iterator[None]:
    """Let a statement do what the triggers of the tables refuse."""
    with sql.transaction():
        sql.execute("SET LOCAL session_replication_role = replica")
        yield


def following(user: Caller, at: int = 0) -> set[str]:
    """Return the ids of the users in a user's own list, none while that list is 503."""
    answer = user.call("GET", "/v1/users/me/following", at)
    return {row["id"] for row in answer.json()["data"]} if answer.status_code == 200 else set()


def test_log_restored_from_a_backup(world: TwoServices, sql: psycopg.Connection[Any]) -> None:
    ann, bob, cem = world.people(3)
    name = "follows"
    url = world.servers.postgres.url.replace(f"/{name}?", "/postgres?")
    with psycopg.connect(url, autocommit=True) as administrator:
        with no_connections(administrator, name):
            administrator.execute(f"CREATE DATABASE saved TEMPLATE {name}".encode())
        world.wait_level()
        assert ann.follow(cem) == 201 and ann.sees_at_last(cem) is True
        with no_connections(administrator, name):
            administrator.execute(f"DROP DATABASE {name}".encode())
            administrator.execute(f"ALTER DATABASE saved RENAME TO {name}".encode())
    wait_until(lambda: REFUSED in worker_log(world, 0) and REFUSED in worker_log(world, 1))
    wait_until(lambda: ann.sees(bob) == 503)
    follow_at_last(bob, cem)
    assert [ann.sees(cem), ann.sees(bob, 1), world.list_without_token(bob)] == [503, 503, 503]
    world.tool("adopt", "--yes")
    assert [ann.sees_at_last(user) for user in (bob, cem)] == [True, False]
    assert bob.sees_at_last(cem, 1) is True


@contextmanager
def no_connections(administrator: psycopg.Connection[Any], name: str) -> Iterator[None]:
    """End all connections to a database, and let none begin for the length of the block."""
    administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
    administrator.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name])
    try:
        yield
    finally:
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def follow_at_last(one: Caller, other: Caller) -> None:
    wait_until(lambda: one.follow(other) in (201, 409))


def test_new_address_of_postgres(world: TwoServices) -> None:
    ann, bob, cem, dan = world.people(4)
    address = world.servers.postgres.url
    with other_workers(world, DATABASE_URL=address):
        wait_until(lambda: REFUSED in worker_log(world, 0) and REFUSED in worker_log(world, 1))
        assert ann.follow(cem) == 201
        assert [ann.sees(cem), ann.sees(bob), dan.sees(cem), world.list_without_token(bob)] == [503, True, False, 200]
        tool(world, "adopt", "--yes", DATABASE_URL=address)
        assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]
    world.tool("adopt", "--yes")
    assert ann.follow(dan) == 201 and ann.sees_at_last(dan, 1) is True


def test_two_databases_behind_one_address(world: TwoServices) -> None:
    """The second web and worker process are led to a copy on a server of its own."""
    ann, bob, cem, dan = world.people(4)
    world.wait_level()
    networks = [world.networks[name, 1].postgres for name in ("web", "worker")]
    paths = [network.path for network in networks]
    with base_backup(world.servers.postgres.url) as copy:
        for network in networks:
            network.redirect(postgres_socket(copy))
        try:
            for name in ("web", "worker"):
                world.services[1].kill(name)
                world.services[1].start(name)
            wait_until(lambda: world.is_up(1))
            wait_until_projected(world, copy)

            def is_noticed() -> bool:
                """Follow in either log; a caller's own follow is shown, or 503."""
                for user, other in ((ann, cem), (bob, dan)):
                    at = 0 if user is ann else 1
                    for method, shown in (("POST", True), ("DELETE", False)):
                        done = user.call(method, f"/v1/users/{other.id}/follow", at).status_code
                        seen = user.sees(other, at)
                        assert seen in ((shown, 503) if done in (201, 204) else (True, False, 503))
                return any(DISPUTED in worker_log(world, number) for number in (0, 1))

            wait_until(is_noticed)
            wait_until(lambda: ann.sees(cem) == world.list_without_token(bob) == 503)
            assert ann.call("DELETE", f"/v1/users/{cem.id}/follow").status_code in (204, 404)
        finally:
            world.services[1].stop("worker")
            for network, path in zip(networks, paths, strict=True):
                network.redirect(path)
    world.tool("adopt", "--yes")
    world.services[1].start("worker")
    assert ann.follow(cem) == 201 and ann.sees_at_last(cem) is True
    world.wait_level()
    assert "equal" in world.tool("verify")


def wait_until_projected(world: TwoServices, url: str) -> None:
    """Return when a worker has said that it projects from the server at this address."""
    with psycopg.connect(url) as connection:
        [(run,)] = connection.execute(f"SELECT {SERVER_RUN}".encode()).fetchall()
    with Redis.from_url(world.servers.queue_url) as queue, queue.pubsub(ignore_subscribe_messages=True) as heard:
        heard.psubscribe("*:applied")
        wait_until(lambda: (said := heard.get_message()) is not None and run.encode() in said["data"])


# ---- other Redis


def test_redis_copied_by_replication(world: TwoServices, tmp_path: Path) -> None:
    ann, *others = world.people(6)
    world.wait_level()
    primary, network = redis_socket(world.servers.valkey.url), world.networks["worker", 1].redis
    with (
        embedded(tmp_path, postgres=False) as copy,
        Redis.from_url(str(copy.views)) as to_copy,
        resetting_server(primary, real=True) as between,
    ):
        between.forward()
        to_copy.replicaof("127.0.0.1", between.port)
        wait_until(lambda: to_copy.info("replication")["master_link_status"] == "up")
        to_copy.replicaof("NO", "ONE")
        network.redirect(redis_socket(str(copy.views)))
        try:
            assert {ann.follow(other) for other in others[1:]} == {201}
            assert {ann.sees(other, at) for other in others for at in (0, 1)} <= {True, 503}
            wait_until(lambda: "reach different servers" in tool(world, "status"))
        finally:
            world.services[1].stop("worker")
            network.redirect(primary)
    assert {ann.sees_at_last(other, at) for other in others for at in (0, 1)} == {True}
    world.services[1].start("worker")


def test_closed_rate_counter_without_redis(world: TwoServices, tmp_path: Path) -> None:
    """A third web process refuses what it cannot count."""
    ann, _, cem = world.people(3)
    settings = {**world.services[1].own["web"], "FOLLOWS_RATE_LIMIT_FAIL": "closed"}
    with (
        beside(world.services[1], tmp_path / "closed", **settings) as closed,
        httpx.Client(base_url=closed.base_url, trust_env=False, timeout=30) as web,
    ):
        closed.start("web")
        closed.wait_ready()
        strict = replace(ann, webs=(web,))
        with world.servers.valkey.down():
            refused = strict.call("POST", f"/v1/users/{cem.id}/follow")
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
            assert ann.follow(cem) == 201
        assert strict.sees_at_last(cem) is True
