"""Part 5: servers lose data, fill up, refuse writes, hang or get slow while clients act; the service recovers alone."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Final
from uuid import uuid4

import httpx
import psycopg
from redis import Redis
from redis.exceptions import OutOfMemoryError

from tests.proof.clients import Client
from tests.proof.deployment import LAG_UNDER_LOAD_MAX_EVENTS, Deployment, clients_running, running_deployment
from tests.proof.parts import Counts, PartContext
from tests.support.breakable_servers import wait_until
from tests.support.fixtures import Plain
from tests.support.servers import Service

TITLE: Final = "5 lost servers"

# Long enough that every process makes several calls during the fault.
FAULT_S: Final = 2.0
# P4 excepts this time after the policy was changed; only then may an evicted list no longer look empty.
POLICY_CHANGE_S: Final = 0.5
# A value that is written to make a full Redis evict.
FILLER_BYTES: Final = 64 * 1024
HANGING_S: Final = 30.0
OPEN_TRANSACTION_S: Final = 120.0
ANSWER_DELAY_MS: Final = 100
APPEND_DELAY_S: Final = 0.5
LOST_WRITES: Final = (1, 10, 100, 1_000)

# Dump and restore are each one atomic step, as a server's own file is of one moment.
DUMP: Final = """local found = {}
for _, key in ipairs(redis.call('KEYS', '{g*')) do
    table.insert(found, key)
    table.insert(found, redis.call('DUMP', key))
end
return found"""
RESTORE: Final = """for _, key in ipairs(redis.call('KEYS', '{g*')) do redis.call('DEL', key) end
for k = 1, #ARGV, 2 do redis.call('RESTORE', ARGV[k], 0, ARGV[k + 1]) end"""

Fault = Callable[[Deployment, PartContext], Iterator[None]]


def emptied(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Redis is empty."""
    with Redis.from_url(deployment.servers.valkey.url) as client:
        client.flushall()
    yield


def older_dump(deployment: Deployment, context: PartContext) -> Iterator[None]:
    """Redis is as it was some writes ago, as after a failover."""
    with Redis.from_url(deployment.servers.valkey.url) as client:
        for writes in LOST_WRITES[: context.by_scale(2, 4)]:
            saved = client.eval(DUMP, 0)
            before = int(client.info("persistence")["rdb_changes_since_last_save"])

            def are_written(before: int = before, writes: int = writes) -> bool:
                return int(client.info("persistence")["rdb_changes_since_last_save"]) >= before + writes

            wait_until(are_written)
            client.eval(RESTORE, 0, *saved)
            deployment.wait_caught_up(LAG_UNDER_LOAD_MAX_EVENTS)
    yield


def out_of_memory(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Redis refuses writes for lack of memory."""
    with Redis.from_url(deployment.servers.valkey.url) as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


def _has_evicted(client: Plain) -> bool:
    """Write, and return whether the server has evicted a key for that; it may refuse a write until it has."""
    with suppress(OutOfMemoryError):
        client.set("filler", bytes(FILLER_BYTES))
    return int(client.info("stats")["evicted_keys"]) > 0


def wrong_policy(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """An operator sets an eviction policy under which Redis, which is full, deletes any key to make room."""
    with Redis.from_url(deployment.servers.valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        sleep(POLICY_CHANGE_S)
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        # Workers that have seen the policy write no more, and only a write makes Redis evict.
        wait_until(lambda: _has_evicted(client))
        client.delete("filler")
        yield
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def read_only(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Redis is the replica of a server that does not exist, and refuses writes."""
    with Redis.from_url(deployment.servers.valkey.url) as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", 1)
        yield
        client.replicaof("NO", "ONE")


def slow(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Each answer of Redis takes ANSWER_DELAY_MS."""
    with Redis.from_url(deployment.servers.valkey.url) as client:
        end = monotonic() + FAULT_S
        while monotonic() < end:
            client.client_pause(ANSWER_DELAY_MS, all=True)
    yield


def cut_off(deployment: Deployment, context: PartContext) -> Iterator[None]:
    """Redis stops answering; its connections stay open."""
    with deployment.servers.valkey.frozen():
        sleep(context.by_scale(1, int(HANGING_S)))
        yield


def log_restarted(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Postgres is down for a while; reads go on."""
    with deployment.servers.postgres.down():
        deployment.reads_go_on(FAULT_S)
        yield


def log_cut_off(deployment: Deployment, context: PartContext) -> Iterator[None]:
    """Postgres stops answering; its connections stay open, and reads go on."""
    with deployment.servers.postgres.frozen():
        deployment.reads_go_on(context.by_scale(1, int(HANGING_S)))
        yield


def log_full_of_connections(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Other programs hold every connection that Postgres allows."""
    with ExitStack() as taken:
        with suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(deployment.servers.postgres.url))
        yield


def disk_full(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Every append fails with the error of a full disk."""
    with _on_append(deployment, "RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'No space left on device'"):
        yield


def slow_commit(deployment: Deployment, _: PartContext) -> Iterator[None]:
    """Every append takes APPEND_DELAY_S longer."""
    with _on_append(deployment, f"PERFORM pg_sleep({APPEND_DELAY_S}); RETURN NULL"):
        yield


def foreign_transaction(deployment: Deployment, context: PartContext) -> Iterator[None]:
    """A transaction stays open in another database of the same server, for minutes."""
    with psycopg.connect(deployment.servers.postgres.url.replace("/follows?", "/postgres?")) as connection:
        connection.execute("SELECT txid_current()")
        sleep(context.by_scale(0, int(OPEN_TRANSACTION_S)))
        yield


@contextmanager
def _on_append(deployment: Deployment, body: str) -> Iterator[None]:
    """Run a trigger with this body on every append, for the length of the block."""
    with psycopg.connect(deployment.servers.postgres.url, autocommit=True) as connection:
        connection.execute(
            f"CREATE FUNCTION disturb() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$".encode()
        )
        connection.execute(
            "CREATE TRIGGER disturb AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION disturb()"
        )
        try:
            yield
        finally:
            connection.execute("DROP TRIGGER disturb ON events")
            connection.execute("DROP FUNCTION disturb()")


FAULTS: Final[dict[str, Fault]] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        emptied,
        older_dump,
        out_of_memory,
        wrong_policy,
        read_only,
        slow,
        cut_off,
        log_restarted,
        log_cut_off,
        log_full_of_connections,
        disk_full,
        slow_commit,
        foreign_transaction,
    )
}


def run(context: PartContext) -> Counts:
    """One fault after the other, each until the views have caught up; then compare with the clients' records."""
    counts = Counts()
    with running_deployment(context) as deployment:
        clients = deployment.clients(context.by_scale(6, 24), context, counts)
        asyncio.run(_attack(deployment, clients, context, counts))
        deployment.wait_caught_up()
        deployment.check(clients, counts)
        if context.scale == "long":
            _restore_backup(deployment, context, counts)
    return counts


def _restore_backup(deployment: Deployment, context: PartContext, counts: Counts) -> None:
    """Restore Postgres from a backup: later commits are lost, and user numbers are given out a second time."""
    backup, data = context.folder / "backup", context.folder / "servers" / "postgres"
    with deployment.servers.postgres.down():
        _copy(data, backup)
    deployment.wait_caught_up()
    _check_new_user(deployment, "newcomer", counts)
    with deployment.servers.postgres.down():
        shutil.rmtree(data)
        _copy(backup, data)
    deployment.wait_caught_up()
    counts.expect(deployment.views_are_the_log(), "the views differ from the restored log")
    _check_new_user(deployment, "latecomer", counts)
    for service in deployment.services:
        with _client(deployment, service, "guest-1", "guest") as guest:
            found = _answer(guest, "/v1/users/newcomer/followers")
            counts.expect(found.status_code == 404, f"the list of a user lost with the log is answered {found.text}")
    counts.add("faults: older restore")


def _check_new_user(deployment: Deployment, name: str, counts: Counts) -> None:
    """Register a user that follows and is followed; both follows must be seen through both services."""
    one, two = deployment.services
    with one.client("platform", "service") as platform:
        created = platform.put(f"/v1/users/{name}", json={}).status_code
        counts.expect(created == 201, f"{name} is not a new user: {created}")
    for service, follower, followed in ((one, name, "user-1"), (two, "user-1", name)):
        with _client(deployment, service, follower) as client:
            status = _answer(client, f"/v1/users/{followed}/follow", "POST").status_code
            counts.expect(status == 201, f"{follower} follows {followed}: {status}")
    for service in deployment.services:
        for follower, followed in ((name, "user-1"), ("user-1", name)):
            with _client(deployment, service, follower) as client:
                found = _answer(client, f"/v1/users/{followed}/follow-status")
                counts.expect(found.json().get("is_following"), f"{follower} and {followed}: {found.text}")


def _client(deployment: Deployment, service: Service, user: str, role: str = "user") -> httpx.Client:
    """Return a client of either service; both accept tokens signed with the first one's key."""
    headers = {"Authorization": f"Bearer {deployment.services[0].token(user, role)}"}
    return httpx.Client(base_url=service.base_url, headers=headers, trust_env=False, timeout=30)


def _answer(client: httpx.Client, path: str, method: str = "GET") -> httpx.Response:
    """Send a request until the answer is not 503, and return it; its idempotency key makes all tries one command."""
    found: list[httpx.Response] = []
    key = {"Idempotency-Key": str(uuid4())}

    def answered() -> bool:
        found.append(client.request(method, path, headers=key))
        return found[-1].status_code != 503

    wait_until(answered)
    return found[-1]


def _copy(folder: Path, to: Path) -> None:
    """Copy a folder with its owner, which may be another account than ours."""
    subprocess.run(["cp", "-a", folder, to], check=True)


async def _attack(deployment: Deployment, clients: list[Client], context: PartContext, counts: Counts) -> None:
    """Let the clients act while one fault follows the other."""
    names = list(FAULTS) if context.scale == "long" else context.rng("faults").sample(list(FAULTS), 3)
    async with clients_running(clients):
        for name in names:
            began, known = monotonic(), len(counts.wrong)
            await asyncio.to_thread(_cause, deployment, FAULTS[name], context)
            counts.add(f"faults: {name}")
            counts.wrong[known:] = [f"{name}: {complaint}" for complaint in counts.wrong[known:]]
            print(f"{name}: caught up {monotonic() - began:.1f} s after it began", flush=True)


def _cause(deployment: Deployment, fault: Fault, context: PartContext) -> None:
    with contextmanager(fault)(deployment, context):
        sleep(FAULT_S)
    deployment.wait_caught_up(LAG_UNDER_LOAD_MAX_EVENTS)
