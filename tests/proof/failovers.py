"""Faults of the part `outages`: another server takes the place of one, without its last writes."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from time import sleep
from typing import Final

import msgspec
import psycopg
from redis import Redis

from cli.dev.embedded import embedded
from cli.dev.postgres import postgres_program, postgres_url
from cli.dev.supervisor import LogFile, SupervisedProcess
from cli.dev.unprivileged import become
from tests.proof.absences import Fault, Readers
from tests.proof.deployment import check_records
from tests.proof.outage_world import WEBS, WORKERS, World
from tests.support.breakable_servers import Breakable, answers_ping, answers_sql, wait_until
from tests.support.network import redis_socket
from tests.support.resetting_server import resetting_server

# Acknowledged events that a promoted standby lacks, at least.
LOST_EVENTS: Final = 30
# Commands that Redis takes and a promoted replica lacks, at least.
LOST_WRITES: Final = 100
LOST_LINE: Final = re.compile(r"the log has lost what it had after (\d+): up to (\d+) events until (\d+)")
LEVEL_S: Final = 1.0
STATES: Final = """SELECT f.id, t.id, e.recorded_at FROM (
    SELECT DISTINCT ON (subject, object) * FROM events WHERE subject <> object
    ORDER BY subject, object, position DESC) e
    JOIN users f ON f.number = e.subject JOIN users t ON t.number = e.object WHERE e.type = 'UserFollowed'"""
States = dict[tuple[str, str], datetime]


def standby_promoted(world: World, _: random.Random) -> Iterator[Readers]:
    """A standby that had lost contact takes the place of Postgres, behind the same addresses."""
    primary = world.servers.postgres
    standby = _streaming_standby(world)
    with psycopg.connect(standby.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
        connection.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not connection.execute("SELECT 1 FROM pg_stat_wal_receiver").fetchall())
    _wait_for_events(primary.url, LOST_EVENTS)
    for name in WEBS:  # the views get the events that will be lost
        world.networks[name].postgres.hold()
    sleep(LEVEL_S)
    for network in world.networks.values():
        network.postgres.hold()
    logged = _logged(world)
    primary.kill()
    with psycopg.connect(standby.url, autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
    records, kept = world.begin_anew(standby.url), _events(standby.url)
    world.servers.postgres = standby
    world.lead_to(world.servers)
    for network in world.networks.values():
        network.postgres.release()
    yield ()
    primary.start()
    check_records(records, primary.url, world.counts)
    new = "".join(text[len(before) :] for before, text in zip(logged, _logged(world), strict=True))
    _check_report(world, new, _events(primary.url) - kept)
    _check_diff(world, _states(primary.url))
    primary.kill()


def replica_promoted(world: World, _: random.Random) -> Iterator[Readers]:
    """A replica that had lost contact takes the place of Redis, behind the same address."""
    primary = world.servers.valkey
    replica = start_redis(world, "replica")
    with resetting_server(redis_socket(primary.url), real=True) as between, Redis.from_url(replica.url) as to_replica:
        between.forward()
        to_replica.replicaof("127.0.0.1", between.port)
        wait_until(lambda: to_replica.info("replication")["master_link_status"] == "up")
        between.hold()
        _wait_for_writes(primary.url, LOST_WRITES)
        primary.kill()
        to_replica.replicaof("NO", "ONE")
    world.servers.valkey = replica
    world.lead_to(world.servers)
    yield ()


def _streaming_standby(world: World) -> Breakable:
    """Start a standby of Postgres that has received all; it ends with the run."""
    primary = world.servers.postgres.server.program
    folder = Path(tempfile.mkdtemp(prefix="standby-", dir=world.context.folder))
    sockets = Path(world.stack.enter_context(tempfile.TemporaryDirectory(prefix="follows-", dir="/tmp")))
    words = list(primary.command)
    data, before = folder / "postgres", Path(words[words.index("-k") + 1])
    words[words.index("-D") + 1], words[words.index("-k") + 1] = str(data), str(sockets)
    sockets.chmod(0o755)
    folder.chmod(0o755)
    if primary.account is not None:
        for made in (folder, sockets):
            subprocess.run(["chown", str(primary.account.uid), made], check=True)
    subprocess.run(
        [postgres_program("pg_basebackup"), "-h", before, "-U", "postgres", "-D", data, "-R", "-c", "fast"],
        cwd="/",
        env=dict(primary.environment),
        preexec_fn=become(primary.account),
        check=True,
    )
    program = msgspec.structs.replace(primary, command=words)
    server = SupervisedProcess(program, folder, LogFile(folder / "postgres.log"), lambda _: None)
    url = postgres_url(sockets)
    standby = Breakable(url, world.stack.enter_context(server), signal.SIGQUIT, lambda: answers_sql(url))
    wait_until(standby.ready)
    with psycopg.connect(url, autocommit=True) as connection:
        wait_until(lambda: bool(connection.execute("SELECT 1 FROM pg_stat_wal_receiver").fetchall()))
    return standby


def start_redis(world: World, name: str) -> Breakable:
    """Start an empty Redis; it ends with the run."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=world.context.folder))
    running = world.stack.enter_context(embedded(folder, postgres=False))
    url = running.views
    assert url is not None
    return Breakable(url, running.servers[0], signal.SIGKILL, lambda: answers_ping(url))


def _check_report(world: World, logged: str, lost: int) -> None:
    """Expect the line that says how many events the log has lost."""
    world.counts.add("events lost by a promoted standby", lost)
    found = LOST_LINE.search(logged)
    world.counts.expect(found, f"no worker has said that the log has lost {lost} events")
    if found:
        after, number, until = map(int, found.groups())
        world.counts.expect(number == until - after >= lost, f"{lost} events are lost, and a worker says {found[0]}")


def _check_diff(world: World, before: States) -> None:
    """Expect that `follows generations diff` names exactly the follows in which the log differs from the lost one."""
    for client in world.clients_there:
        client.writes = False
    found, after = None, None
    while after is None or after != _states(world.servers.postgres.url):
        after = _states(world.servers.postgres.url)
        world.wait_caught_up()
        known = msgspec.json.decode(world.tool("generations", "--json"))
        [old, new] = [max(each["number"] for each in known if each["state"] == state) for state in ("kept", "live")]
        lines = map(msgspec.json.decode, world.tool("generations", "diff", old, new, "--json").splitlines())
        found = {(each["follower"]["id"], each["followed"]["id"]) for each in lines if each["what"] == "follow"}
    wanted = {pair for pair in {*before, *after} if before.get(pair) != after.get(pair)}
    world.counts.add("follows named by generations diff", len(wanted))
    world.counts.expect(found == wanted, f"generations diff names {found}, not {wanted}")


def _wait_for_events(url: str, number: int) -> None:
    before = _events(url)
    wait_until(lambda: _events(url) >= before + number)


def _events(url: str) -> int:
    with psycopg.connect(url) as connection:
        [(found,)] = connection.execute("SELECT count(*) FROM events").fetchall()
    return int(found)


def _wait_for_writes(url: str, number: int) -> None:
    with Redis.from_url(url) as client:
        before = int(client.info("persistence")["rdb_changes_since_last_save"])
        wait_until(lambda: int(client.info("persistence")["rdb_changes_since_last_save"]) >= before + number)


def _logged(world: World) -> list[str]:
    """Return what each worker has logged."""
    return [(world.service(name).folder / f"{name}.log").read_text() for name in WORKERS]


def _states(url: str) -> States:
    """Return the begin of each follow in a log."""
    with psycopg.connect(url) as connection:
        return {(follower, followed): at for follower, followed, at in connection.execute(STATES)}


FAILOVERS: Final[tuple[Fault, ...]] = (standby_promoted, replica_promoted)
