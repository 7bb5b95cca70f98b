"""Part 5: servers that are lost, forget, fill up, refuse or crawl, while clients act; it heals without a hand."""

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

from tests.breakable import wait_until
from tests.proof.clients import Client
from tests.proof.staging import CLOSE, World, acting, world
from tests.proof.trial import Counts, Trial
from tests.servers import Service

TITLE: Final = "5 lost servers"

# Long enough that every process meets the fault several times.
FAULT_S: Final = 2.0
CUT_OFF_S: Final = 30.0
LEFT_OPEN_S: Final = 120.0
SLOW_MS: Final = 100
COMMIT_S: Final = 0.5
LOST_WRITES: Final = (1, 10, 100, 1_000)

# Both in one step, as a server's own file is of one moment.
DUMP: Final = """local found = {}
for _, key in ipairs(redis.call('KEYS', '{g*')) do
    table.insert(found, key)
    table.insert(found, redis.call('DUMP', key))
end
return found"""
RESTORE: Final = """for _, key in ipairs(redis.call('KEYS', '{g*')) do redis.call('DEL', key) end
for k = 1, #ARGV, 2 do redis.call('RESTORE', ARGV[k], 0, ARGV[k + 1]) end"""

Fault = Callable[[World, Trial], Iterator[None]]


def emptied(made: World, _: Trial) -> Iterator[None]:
    """Everything in Redis is gone."""
    with Redis.from_url(made.servers.valkey.url) as client:
        client.flushall()
    yield


def older_dump(made: World, trial: Trial) -> Iterator[None]:
    """Redis comes back as it was some writes ago, as after a failover."""
    with Redis.from_url(made.servers.valkey.url) as client:
        for writes in LOST_WRITES[: trial.times(2, 4)]:
            saved = client.eval(DUMP, 0)
            before = int(client.info("persistence")["rdb_changes_since_last_save"])

            def so_many(before: int = before, writes: int = writes) -> bool:
                return int(client.info("persistence")["rdb_changes_since_last_save"]) >= before + writes

            wait_until(so_many)
            client.eval(RESTORE, 0, *saved)
            made.heal(CLOSE)
    yield


def out_of_memory(made: World, _: Trial) -> Iterator[None]:
    """Redis takes no more writes."""
    with Redis.from_url(made.servers.valkey.url) as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


def wrong_policy(made: World, _: Trial) -> Iterator[None]:
    """Somebody sets a policy under which a full Redis drops any key, and there is no room for another one."""
    with Redis.from_url(made.servers.valkey.url) as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        wait_until(lambda: client.info("stats")["evicted_keys"] > 0)
        yield
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def read_only(made: World, _: Trial) -> Iterator[None]:
    """The server has been made the replica of one that is not there."""
    with Redis.from_url(made.servers.valkey.url) as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", 1)
        yield
        client.replicaof("NO", "ONE")


def slow(made: World, _: Trial) -> Iterator[None]:
    """Each answer of Redis takes a tenth of a second."""
    with Redis.from_url(made.servers.valkey.url) as client:
        end = monotonic() + FAULT_S
        while monotonic() < end:
            client.client_pause(SLOW_MS, all=True)
    yield


def cut_off(made: World, trial: Trial) -> Iterator[None]:
    """Redis does not say a word in the middle of everything; its connections stay."""
    with made.servers.valkey.frozen():
        sleep(trial.times(1, int(CUT_OFF_S)))
        yield


def log_restarted(made: World, _: Trial) -> Iterator[None]:
    """Postgres is away for a while, and reads go on."""
    with made.servers.postgres.down():
        made.reads_go_on(FAULT_S)
        yield


def log_cut_off(made: World, trial: Trial) -> Iterator[None]:
    """Postgres does not say a word in the middle of everything; its connections stay, and reads go on."""
    with made.servers.postgres.frozen():
        made.reads_go_on(trial.times(1, int(CUT_OFF_S)))
        yield


def log_full_of_connections(made: World, _: Trial) -> Iterator[None]:
    """Others have taken every connection that Postgres gives."""
    with ExitStack() as taken:
        with suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(made.servers.postgres.url))
        yield


def disk_full(made: World, _: Trial) -> Iterator[None]:
    """Every append fails as on a full disk."""
    with _on_append(made, "RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'No space left on device'"):
        yield


def slow_commit(made: World, _: Trial) -> Iterator[None]:
    """Every append takes half a second."""
    with _on_append(made, f"PERFORM pg_sleep({COMMIT_S}); RETURN NULL"):
        yield


def foreign_transaction(made: World, trial: Trial) -> Iterator[None]:
    """Somebody leaves a transaction open in another database of the same server, for minutes."""
    with psycopg.connect(made.servers.postgres.url.replace("/follows?", "/postgres?")) as connection:
        connection.execute("SELECT txid_current()")
        sleep(trial.times(0, int(LEFT_OPEN_S)))
        yield


@contextmanager
def _on_append(made: World, body: str) -> Iterator[None]:
    with psycopg.connect(made.servers.postgres.url, autocommit=True) as connection:
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


def run(trial: Trial) -> Counts:
    """One fault after the other, each until all is level again; the clients' records judge at the end."""
    counts = Counts()
    with world(trial) as made:
        clients = made.clients(trial.times(6, 24), trial, counts)
        asyncio.run(_disturb(made, clients, trial, counts))
        made.heal()
        made.judge(clients, counts, trial.again("losses"))
        if trial.scale == "long":
            _older_restore(made, trial, counts)
    return counts


def _older_restore(made: World, trial: Trial, counts: Counts) -> None:
    """Postgres comes back from a backup: what was committed since is nobody's any more, and numbers are given anew."""
    backup, data = trial.folder / "backup", trial.folder / "servers" / "postgres"
    with made.servers.postgres.down():
        _copy(data, backup)
    made.heal()
    _is_new(made, "newcomer", counts)
    with made.servers.postgres.down():
        shutil.rmtree(data)
        _copy(backup, data)
    made.heal()
    counts.expect(made.views_are_the_log(), f"the views differ from the restored log; {trial.again('losses')}")
    _is_new(made, "latecomer", counts)
    for service in made.services:
        with _client(made, service, "onlooker", "guest") as onlooker:
            found = _answered(onlooker, "/v1/users/newcomer/followers")
            counts.expect(found.status_code == 404, f"who is gone with the log is answered {found.text}")
    counts.add("faults: older restore")


def _is_new(made: World, name: str, counts: Counts) -> None:
    """Somebody comes whom nobody knows, follows and is followed, and sees it everywhere."""
    one, two = made.services
    with one.client("platform", "service") as platform:
        created = platform.put(f"/v1/users/{name}", json={}).status_code
        counts.expect(created == 201, f"{name} is no new user: {created}")
    for service, follower, followed in ((one, name, "user-1"), (two, "user-1", name)):
        with _client(made, service, follower) as client:
            status = _answered(client, f"/v1/users/{followed}/follow", "POST").status_code
            counts.expect(status == 201, f"{follower} follows {followed}: {status}")
    for service in made.services:
        for follower, followed in ((name, "user-1"), ("user-1", name)):
            with _client(made, service, follower) as client:
                found = _answered(client, f"/v1/users/{followed}/follow-status")
                counts.expect(found.json().get("is_following"), f"{follower} and {followed}: {found.text}")


def _client(made: World, service: Service, user: str, role: str = "user") -> httpx.Client:
    """One of any process: both believe the first one's key."""
    headers = {"Authorization": f"Bearer {made.services[0].token(user, role)}"}
    return httpx.Client(base_url=service.base_url, headers=headers, trust_env=False, timeout=30)


def _answered(client: httpx.Client, path: str, method: str = "GET") -> httpx.Response:
    """What it is once it is not 503: who has just lost Postgres may be waiting for it still. A command's key makes all
    its tries one."""
    found: list[httpx.Response] = []
    key = {"Idempotency-Key": str(uuid4())}

    def answered() -> bool:
        found.append(client.request(method, path, headers=key))
        return found[-1].status_code != 503

    wait_until(answered)
    return found[-1]


def _copy(folder: Path, to: Path) -> None:
    """With its owner, who need not be we."""
    subprocess.run(["cp", "-a", folder, to], check=True)


async def _disturb(made: World, clients: list[Client], trial: Trial, counts: Counts) -> None:
    """Let the clients act while one fault comes after the other."""
    names = list(FAULTS) if trial.scale == "long" else trial.chance("faults").sample(list(FAULTS), 3)
    async with acting(clients):
        for name in names:
            began, known = monotonic(), len(counts.wrong)
            await asyncio.to_thread(_one, made, FAULTS[name], trial)
            counts.add(f"faults: {name}")
            counts.wrong[known:] = [f"{name}: {complaint}" for complaint in counts.wrong[known:]]
            print(f"{name}: level again {monotonic() - began:.1f} s after it began", flush=True)


def _one(made: World, fault: Fault, trial: Trial) -> None:
    with contextmanager(fault)(made, trial):
        sleep(FAULT_S)
    made.heal(CLOSE)
