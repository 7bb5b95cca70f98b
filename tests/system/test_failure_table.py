"""The table "What happens when" of docs/operate.md, row by row on running processes.

The tests here have two web and two worker processes, and are named after their row. Other rows have tests elsewhere.
"""

import ast
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from redis import Redis

from tests.support.breakable_servers import BreakableServers, wait_until
from tests.support.evictions import evict_some, remove_ballast
from tests.support.fixtures import Plain
from tests.support.lost_tail import lose_tail
from tests.support.read_only import read_only
from tests.support.two_services import Caller, TwoServices, number_of
from tests.support.unreadable_events import make_readable, write_unreadable

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = "tests/system/test_failure_table.py"
DATABASES: Final = "tests/system/test_failure_table_databases.py"
# A row's fault, and the tests that show it: here, or in another file.
TESTS: Final = {
    "Postgres goes away": [
        "test_postgres_goes_away",
        "tests/system/test_outages.py::test_without_postgres_commands_are_503_and_reads_go_on",
    ],
    "a web process that alone cannot reach Postgres": ["test_web_process_that_alone_cannot_reach_postgres"],
    "a web process started while Postgres is away": ["test_web_process_started_while_postgres_is_away"],
    "the projection paused": [
        "tests/system/test_own_writes.py::test_own_follow_during_a_pause_is_503_in_every_process_until_it_is_shown"
    ],
    "no worker": ["test_no_worker"],
    "Postgres takes no writes: a standby after a failover, `default_transaction_read_only`": [
        "test_postgres_takes_no_writes"
    ],
    "the disk of Postgres is full": ["test_disk_of_postgres_is_full"],
    "Postgres, a firewall or an administrator ends idle connections": ["test_postgres_ends_idle_connections"],
    "Postgres hangs, or its host vanishes without a word": ["test_postgres_hangs"],
    "the first of several hosts in the address of Postgres vanishes without a word, and the next one takes writes": [
        "tests/system/test_first_host.py::test_first_host_that_vanishes_makes_callers_wait_for_the_second"
    ],
    "Redis of the views down": ["test_redis_down"],
    "Redis of the views silent: it hangs, or its host vanishes without a word": ["test_redis_silent"],
    "Redis of the views full or read-only": ["test_redis_full_or_read_only"],
    "a web process that alone cannot reach Redis": ["test_web_process_that_alone_cannot_reach_redis"],
    "a proxy or a failover that resets connections to Redis, or another server in its place": [
        "test_connections_to_redis_are_reset"
    ],
    "Redis emptied": ["tests/system/test_spine.py::test_emptied_valkey_is_503_until_rebuilt"],
    "Redis lost its last writes": ["test_redis_lost_its_last_writes"],
    "an eviction policy set by hand on a running Redis": ["test_eviction_policy_set_by_hand"],
    "queue down": ["test_queue_down"],
    "a worker killed": ["tests/system/test_spine.py::test_killed_worker_loses_no_follow"],
    "a worker that alone no longer reaches Redis": ["test_worker_that_alone_no_longer_reaches_redis"],
    "a rebuild killed": [
        f"{DATABASES}::test_rebuild_killed",
        "tests/system/test_rebuild.py::test_killed_rebuild_is_continued_by_the_same_command",
    ],
    "a master of a cluster down": [
        "tests/system/test_cluster.py::test_killed_master_loses_no_follow_and_gives_no_wrong_answer"
    ],
    "a worker stopped and continued": [
        f"{DATABASES}::test_worker_stopped_and_continued",
        "tests/system/test_rebuild.py::test_worker_stopped_beyond_its_leases_changes_no_view",
    ],
    "a web process told to stop": [
        "tests/system/test_rolling_restart.py::test_stopping_web_process_serves_and_closes_connections"
    ],
    "a web process killed": [
        "tests/system/test_spine.py::test_killed_web_process_loses_no_follow_that_it_answered",
        "tests/commands/test_idempotency.py::test_follow_with_repeated_key_returns_first_answer",
    ],
    "an event that cannot be projected": ["test_event_that_cannot_be_projected"],
    "events of users that are missing in the directory (a log restored in part)": [
        f"{DATABASES}::test_events_of_missing_users",
        "tests/api/test_unknown_users.py::test_list_with_an_unknown_user_shows_a_placeholder",
    ],
    "the log lost its last events (a standby promoted, a crash with `synchronous_commit` off)": [
        "test_log_lost_its_last_events"
    ],
    "the log restored from a backup": [
        f"{DATABASES}::test_log_restored_from_a_backup",
        "tests/system/test_rebuild.py::test_log_restored_from_backup_leaves_no_later_follow_in_the_view",
    ],
    "a second Redis fed from the same log": [
        "tests/system/test_two_redis.py::test_own_follow_is_shown_through_either_redis_or_503"
    ],
    "two Redis fed, and the workers of one end or die": [
        "tests/system/test_two_redis.py::test_redis_whose_workers_have_ended_is_not_read_while_the_other_is_fed"
    ],
    "a Redis copied by replication, with workers on both copies": [f"{DATABASES}::test_redis_copied_by_replication"],
    "another database in front of the same Redis: a copy, a restored dump": [
        "tests/api/test_foreign_views.py::test_web_process_on_a_copy_of_the_database_is_refused_until_it_is_adopted"
    ],
    "a new address of Postgres": [f"{DATABASES}::test_new_address_of_postgres"],
    "two databases write into one Redis, behind one address": [f"{DATABASES}::test_two_databases_behind_one_address"],
    "a checkpoint beyond the log's end": ["test_checkpoint_beyond_the_end_of_the_log"],
    "the rate counter's Redis down": [
        "test_rate_counter_without_redis",
        f"{DATABASES}::test_closed_rate_counter_without_redis",
    ],
}
# Reads with a token go on after four seconds.
WITHOUT_LOG_S: Final = 10.0
# A command that no worker shows is answered after a second. The rest is for a busy machine.
LATE_MAX_S: Final = 12.0
# Postgres that hangs makes a command 503 within this, and reads wait for that.
HANGING_MAX_S: Final = 15.0
TAKE_OVER_MAX_S: Final = 20.0
DISK_FULL: Final = """CREATE FUNCTION fill_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'No space left on device'; END $$;
    CREATE TRIGGER fill_disk AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION fill_disk()"""


@pytest.fixture
def valkey(breakable: BreakableServers) -> Iterator[Plain]:
    """A plain client of the views' server."""
    with Redis.from_url(breakable.valkey.url) as client:
        yield client


# ---- the table and the tests


def faults_of_the_table() -> list[str]:
    """Return the first column of the table."""
    section = (ROOT / "docs" / "operate.md").read_text().partition("## What happens when\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| .+? \| .+? \| .+ \|$", section, re.MULTILINE)
    return [row for row in rows if row not in ("fault", "---")]


def test_each_row_of_the_table_has_a_test() -> None:
    assert faults_of_the_table() == list(TESTS)
    named = [test if "::" in test else f"{HERE}::{test}" for tests in TESTS.values() for test in tests]
    missing = [test for test in named if test.partition("::")[2] not in functions(ROOT / test.partition("::")[0])]
    assert not missing, missing
    here = {test for test in functions(ROOT / HERE) if test.startswith("test_")}
    assert here - {"test_each_row_of_the_table_has_a_test"} == {test.removeprefix(f"{HERE}::") for test in named} & here
    there = {test for test in functions(ROOT / DATABASES) if test.startswith("test_")}
    assert there == {test.removeprefix(f"{DATABASES}::") for test in named} & there


def functions(path: Path) -> set[str]:
    """Return the names of a file's functions."""
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


# ---- Postgres


def waits(act: Callable[[], object]) -> float:
    """Return how many seconds a call took."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


def follow_at_last(one: Caller, other: Caller, at: int = 0) -> None:
    """Follow as soon as commands are taken again; what was 503 may have been done."""
    wait_until(lambda: one.follow(other, at) in (201, 409))


def check_reads_without_log(world: TwoServices, ann: Caller, bob: Caller) -> None:
    """Expect that reads with a token are right or 503, until they go on or for WITHOUT_LOG_S, and that others go on.

    On a busy machine, a process that could not run in the second before the outage does not go on.
    """
    end = time.monotonic() + WITHOUT_LOG_S
    statuses: list[bool | int] = []
    while time.monotonic() < end and not (statuses and statuses[-1] is True and 503 in statuses):
        assert world.list_without_token(bob) == 200
        statuses.append(ann.sees(bob))
    assert statuses and set(statuses) <= {True, 503}


def test_postgres_goes_away(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    with world.servers.postgres.down():
        check_reads_without_log(world, ann, bob)
        refused = ann.call("POST", f"/v1/users/{cem.id}/follow")
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    follow_at_last(ann, cem)
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]


def test_web_process_that_alone_cannot_reach_postgres(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    with world.without_postgres(1):
        assert ann.follow(cem, 1) == 503
        wait_until(lambda: ann.sees(bob, 1) == 503)
        end = time.monotonic() + 3.0  # longer than it would take to go on if no worker were there
        while time.monotonic() < end:
            assert ann.sees(bob, 1) == 503
            assert world.list_without_token(bob, 1) == 200
            assert ann.sees(bob, 0) is True
        assert ann.follow(cem, 0) == 201
    assert ann.sees_at_last(cem, 1) is True


def test_web_process_started_while_postgres_is_away(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    with world.servers.postgres.down():
        world.services[1].stop("web")
        world.services[1].start("web")
        wait_until(lambda: world.is_up(1))
        assert ann.follow(cem, 1) == 503
        wait_until(lambda: world.list_without_token(bob, 1) == 200)
        assert ann.sees(bob, 1) == 503
    follow_at_last(ann, cem, 1)
    assert ann.sees_at_last(cem, 1) is True


def test_postgres_takes_no_writes(world: TwoServices, breakable: BreakableServers) -> None:
    ann, bob, cem = world.people(3)
    with read_only(breakable.postgres.url):
        refused = ann.call("POST", f"/v1/users/{cem.id}/follow")
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        wait_until(lambda: "postgres_read_only" in [one["code"] for one in world.health()["details"]["problems"]])
        assert ann.sees_at_last(bob) is True
    follow_at_last(ann, cem)
    assert ann.sees_at_last(cem) is True


def test_disk_of_postgres_is_full(world: TwoServices, sql: psycopg.Connection[Any]) -> None:
    ann, bob, cem = world.people(3)
    sql.execute(DISK_FULL)
    try:
        refused = ann.call("POST", f"/v1/users/{cem.id}/follow")
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert ann.sees(bob) is True and ann.sees(cem) is False
    finally:
        sql.execute("DROP FUNCTION fill_disk CASCADE")
    assert ann.follow(cem) == 201


def test_postgres_ends_idle_connections(world: TwoServices, sql: psycopg.Connection[Any]) -> None:
    ann, bob, cem = world.people(3)
    sql.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE state = 'idle'")
    assert [ann.follow(cem), bob.follow(cem, 1)] == [201, 201]
    assert [ann.sees_at_last(cem, 1), bob.sees_at_last(cem)] == [True, True]


def test_postgres_hangs(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    statuses: list[int] = []
    command = threading.Thread(target=lambda: statuses.append(ann.follow(cem, 1)))
    with world.servers.postgres.frozen():
        command.start()
        check_reads_without_log(world, ann, bob)
        command.join(HANGING_MAX_S)
        assert statuses == [503]
    follow_at_last(ann, cem)  # it is not known whether the first command was written
    assert ann.sees_at_last(cem) is True


# ---- workers


def test_no_worker(world: TwoServices) -> None:
    ann, bob, cem, dan = world.people(4)
    for service in world.services:
        service.kill("worker")
    assert 0.9 < waits(lambda: ann.follow(cem)) < LATE_MAX_S
    for at in (0, 1):
        assert ann.sees(cem, at) == 503
        assert ann.sees(bob, at) is True and dan.sees(cem, at) is False
    for service in world.services:
        service.start("worker")
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]


def test_worker_that_alone_no_longer_reaches_redis(world: TwoServices) -> None:
    """Whichever partitions it has, another worker takes them."""
    ann, *others = world.people(6)
    network = world.networks["worker", 1].redis
    network.hold()
    try:
        for other in others[1:]:
            assert ann.follow(other) == 201
        assert waits(lambda: [ann.sees_at_last(other) for other in others]) < TAKE_OVER_MAX_S
        assert [ann.sees(other) for other in others] == [True] * len(others)
    finally:
        network.release()


# ---- Redis


def check_late_follow(world: TwoServices, ann: Caller, cem: Caller, dan: Caller | None = None) -> None:
    """Follow while the views do not change: 201, then 503 for the caller, and what the views have for others."""
    assert ann.follow(cem) == 201
    for at in (0, 1):
        assert ann.sees(cem, at) == 503
        if dan is not None:
            assert dan.sees(cem, at) is False


def test_redis_down(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    with world.servers.valkey.down():
        check_late_follow(world, ann, cem)
        assert ann.sees(bob) == world.list_without_token(bob) == 503
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]


def test_redis_silent(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    with world.servers.valkey.frozen():
        check_late_follow(world, ann, cem)
        assert world.list_without_token(bob) == 503
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]


@pytest.mark.parametrize("wrong", [{"maxmemory": "1"}, {"min-replicas-to-write": "1"}], ids=["full", "read-only"])
def test_redis_full_or_read_only(world: TwoServices, valkey: Plain, wrong: dict[str, str]) -> None:
    ann, bob, cem, dan = world.people(4)
    usual = {name: valkey.config_get(name)[name] for name in wrong}
    for name, value in wrong.items():
        valkey.config_set(name, value)
    try:
        check_late_follow(world, ann, cem, dan)
        assert ann.sees(bob) is True
    finally:
        for name, value in usual.items():
            valkey.config_set(name, value)
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]


def test_web_process_that_alone_cannot_reach_redis(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    with world.without_redis(1):
        assert ann.follow(cem, 1) == 201
        assert ann.sees(cem, 1) == ann.sees(bob, 1) == 503
        assert ann.sees_at_last(cem, 0) is True
    assert ann.sees_at_last(cem, 1) is True


def test_connections_to_redis_are_reset(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    redis = [network.redis for network in world.networks.values()]
    for network in redis:
        network.reset()
    assert ann.follow(cem) == 201
    assert {ann.sees(user) for user in (bob, cem) for _ in range(5)} <= {True, 503}, "some commands are answered"
    for network in redis:
        network.forward()
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]


def test_redis_lost_its_last_writes(world: TwoServices, valkey: Plain) -> None:
    ann, _, cem, dan = world.people(4)
    world.wait_level()
    before = {key: valkey.dump(key) for key in valkey.scan_iter("{g*")}
    assert ann.follow(cem) == 201
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True]
    with valkey.pipeline(transaction=True) as together:
        together.delete(*valkey.scan_iter("{g*"))
        for key, value in before.items():
            together.restore(key, 0, value)
        together.client_kill_filter(_type="normal", skipme=True)
        together.execute()
    assert [ann.sees_at_last(cem, at) for at in (0, 1)] == [True, True], "503, and never the older state"
    assert dan.follow(cem) == 201


def test_eviction_policy_set_by_hand(world: TwoServices, valkey: Plain) -> None:
    ann, bob, cem = world.people(3)
    try:
        valkey.config_set("maxmemory-policy", "allkeys-random")
        assert waits(lambda: wait_until(lambda: ann.sees(bob) == 503)) < 5.0
        evict_some(valkey, policy="allkeys-random")  # sets noeviction at its end
        valkey.config_set("maxmemory", 0)
        assert ann.follow(cem) == 201
        assert [ann.sees_at_last(bob), ann.sees_at_last(cem)] == [True, True]
    finally:
        remove_ballast(valkey)


def test_queue_down(world: TwoServices) -> None:
    ann, bob, cem = world.people(3)
    with world.without_queue():
        assert waits(lambda: ann.follow(cem)) < LATE_MAX_S
        assert [ann.sees_at_last(bob, 1), ann.sees_at_last(cem), ann.sees_at_last(cem, 1)] == [True, True, True]


def test_rate_counter_without_redis(world: TwoServices) -> None:
    """The second web process counts requests, and the first one does not."""
    ann, _, cem = world.people(3)
    assert "x-ratelimit-remaining" in ann.call("GET", f"/v1/users/{cem.id}", 1).headers
    with world.servers.valkey.down():
        assert ann.follow(cem, 1) == 201
        assert ann.sees(cem, 1) == 503
    assert ann.sees_at_last(cem, 1) is True


# ---- the log and the views


def test_event_that_cannot_be_projected(world: TwoServices, sql: psycopg.Connection[Any]) -> None:
    ann, bob, cem = world.people(3)
    position = write_unreadable(sql, (number_of(sql, ann), number_of(sql, cem)), 1)
    assert bob.follow(cem) == 201 and bob.sees_at_last(cem) is True
    wait_until(lambda: sql.execute("SELECT FROM parked WHERE position = %s", [position]).rowcount == 1)
    assert ann.sees_at_last(bob) is True and ann.sees_at_last(cem) is False
    make_readable(sql, position)
    world.tool("parked", "retry", "--all")
    assert ann.sees_at_last(cem) is True


def test_log_lost_its_last_events(world: TwoServices, sql: psycopg.Connection[Any]) -> None:
    ann, bob, cem = world.people(3)
    world.wait_level()
    [(head,)] = sql.execute("SELECT max(position) FROM events").fetchall()
    assert ann.follow(cem) == 201 and ann.sees_at_last(cem) is True
    world.wait_level()
    lose_tail(sql, head)
    wait_until(lambda: f"the log has lost what it had after {head}: up to 1 events until {head + 1}" in logs(world))
    assert ann.sees_at_last(bob) is True and ann.sees_at_last(cem) is False
    found = sql.execute("SELECT state, number FROM generations WHERE state IN ('kept', 'live')").fetchall()
    numbers = {state: str(number) for state, number in found}
    [line] = world.tool("generations", "diff", numbers["kept"], numbers["live"]).splitlines()[:1]
    assert ann.id in line and cem.id in line


def logs(world: TwoServices) -> str:
    """Return what both workers have logged."""
    return "".join((service.folder / "worker.log").read_text() for service in world.services)


def test_checkpoint_beyond_the_end_of_the_log(world: TwoServices, sql: psycopg.Connection[Any], valkey: Plain) -> None:
    ann, bob, cem = world.people(3)
    live = [key for key in valkey.scan_iter("{g*}:checkpoint") if valkey.hexists(key, "position")]
    spoiled = next(key for key in live if key.endswith(b".%d}:checkpoint" % (number_of(sql, ann) % 64)))
    valkey.hset(spoiled, "position", 99_999_999)
    wait_until(lambda: not valkey.hexists(spoiled, "position"))
    assert ann.follow(cem) == 201
    assert [ann.sees_at_last(bob), ann.sees_at_last(cem)] == [True, True]
