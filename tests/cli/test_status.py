"""`follows status`: its output for a log and a view in every state, as text, as JSON, and repeated."""

import json
import os
import pty
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from redis import Redis

from cli.service_status import LogStatus, ServiceStatus, StatusReader
from cli.status import lines_of, one_line
from commands.coordination import leases, parked, pause, view_register
from commands.db.postgres import Engine, PostgresSettings
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.feeding.feeders import require_feeder
from projections.keys import LEASE_GROUPS, View, write_word
from projections.signals.job_queue import open_queue
from projections.views import generations
from tests.support.cli_runner import COMMAND_TIMEOUT_S, Tools, interrupt, tools_on
from tests.support.queues import NAMES, queue_of
from tests.support.read_only import read_only
from tests.support.resetting_server import first_host
from tests.support.servers import Servers
from tests.support.small_world import people, viewed, write

VIEW = View(7, 4)
PARTITIONS = 16
OWNER = uuid4()
RENEW_S = 0.2
NO_VIEW = [
    "ERROR  no_view: there is no view, and none is being built; reads are 503",
    "       do: wait for the build; if none runs, start a worker",
]
NO_WORKER = ["WARN   no_worker: no worker projects the log", "       do: start `follows worker`"]


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Commands on an empty log."""
    return tools_on(database_url, redis_url, queue_url, tmp_path)


@pytest.fixture
def at_the_head(tools: Tools) -> Tools:
    """Two users and a follow, and a live view of four partitions that holds all of it."""

    async def work(engine: Engine, redis: RedisClient) -> None:
        await people(engine, 2)
        await write(engine, (1, 2))
        head = await log.head(engine)
        await generations.prepare(redis, VIEW, None, 1)
        for partition in range(VIEW.partitions):
            await redis.call("HSET", VIEW.checkpoint(partition), "position", head.position)
        await generations.switch(redis, VIEW)

    tools.prepare(work)
    return tools


@pytest.fixture
def without_renewals(tools: Tools) -> Tools:
    """A view of sixteen partitions, one event behind the log; a worker that has ended holds the leases 0 and 1."""

    async def work(engine: Engine, redis: RedisClient) -> None:
        await people(engine, 2)
        await viewed(engine, redis, PARTITIONS)
        await write(engine, (1, 2))
        await leases.acquire_share(engine, ["group:0", "group:1"], OWNER)

    tools.prepare(work)
    return tools


@pytest.fixture
def one_behind(without_renewals: Tools) -> Iterator[Tools]:
    """The same, and the worker renews its leases."""
    ended = threading.Event()

    def renew() -> None:
        url = without_renewals.environment["DATABASE_URL"]
        while not ended.wait(RENEW_S):
            with suppress(psycopg.Error), psycopg.connect(url) as sql:  # a test may set the database read-only
                sql.execute("UPDATE lease_owners SET owner = owner WHERE owner = %s", [OWNER])

    with ThreadPoolExecutor(1) as threads:
        renewing = threads.submit(renew)
        yield without_renewals
        ended.set()
        renewing.result()


def set_seen(tools: Tools, at: str) -> None:
    """Set when the worker gave its last sign of life."""
    with psycopg.connect(tools.environment["DATABASE_URL"], autocommit=True) as sql:
        sql.execute("ALTER TABLE lease_owners DISABLE TRIGGER USER")
        sql.execute(f"UPDATE lease_owners SET seen_at = {at}".encode())
        sql.execute("ALTER TABLE lease_owners ENABLE TRIGGER USER")


def read_twice(
    tools: Tools, between: Callable[[Engine, RedisClient], Awaitable[object]] | None = None
) -> list[ServiceStatus]:
    """Return two readings, as ``follows status --watch`` shows them, with some work in between."""

    async def work(engine: Engine, redis: RedisClient) -> list[ServiceStatus]:
        postgres = PostgresSettings(tools.environment["DATABASE_URL"], allow_async_commit=True)
        reader = StatusReader(postgres, redis, queue_of(tools.environment["QUEUE_URL"]))
        first = await reader.read(probe=True)
        if between is not None:
            await between(engine, redis)
        second = await reader.read(probe=True)
        await reader.close()
        return [first, second]

    return tools.prepare(work)


def read(tools: Tools) -> ServiceStatus:
    """Return one reading, as `follows status` shows it."""
    return read_twice(tools)[0]


def log_of(found: ServiceStatus) -> LogStatus:
    """Return what is known of the log, which must be there."""
    assert found.log is not None
    return found.log


def codes(found: ServiceStatus) -> list[str]:
    """Return the codes of the problems."""
    return [problem.code for problem in found.problems]


def test_empty_log_without_view_refuses_reads(tools: Tools) -> None:
    done = tools.follows("status")
    assert (done.code, done.err) == (2, "")
    assert done.out.splitlines() == [*NO_VIEW, *NO_WORKER, "log    position 0", "queue  jobs waiting or running: 0"]
    found = tools.follows("status", "--json").json
    assert (found["state"], found["view"], found["log"]["last_event_age_s"]) == ("refused", None, None)
    assert found["problems"][1] == {
        "code": "no_worker",
        "message": "no worker projects the log",
        "since": None,
        "do": "start `follows worker`",
        "refuses": [],
    }


def test_well_service_exits_with_0(one_behind: Tools) -> None:
    async def work(_: Engine, redis: RedisClient) -> None:
        for partition in range(PARTITIONS):
            await redis.call("HSET", View(1, PARTITIONS).checkpoint(partition), "position", 3)

    one_behind.prepare(work)
    done = one_behind.follows("status", "--json")
    assert (done.code, done.json["state"], done.json["problems"]) == (0, "well", [])


def test_status_that_cannot_be_collected_is_json_even_so(tools: Tools) -> None:
    """What reads the alarm gets an object, and an exit code that is not 0."""
    with psycopg.connect(tools.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("INSERT INTO lease_owners (owner, projects, process) VALUES (gen_random_uuid(), true, '[]')")
    done = tools.follows_process("status", "--json")
    assert (done.code, done.json["state"], [one["code"] for one in done.json["problems"]]) == (
        1,
        "degraded",
        ["state_unknown"],
    )
    assert tools.follows_process("status").code == 1


def test_view_at_the_head_has_no_lag(at_the_head: Tools) -> None:
    """Whatever the age of the last event. The command's text ends with lease groups and partitions."""
    done = at_the_head.follows_process("status")
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    assert lines[:2] == NO_WORKER
    assert lines[2].startswith("log    position 3, last event ") and lines[2].endswith(" s ago")
    assert lines[4:] == [
        "view   generation 7, lag 0 events, 0.0 s",
        "       lease group  position  lag  seconds  worker",
        *(f"       {group} of 8              3    0      0.0  none" for group in range(4)),
        "       4 partitions, all at 3",
    ]
    view = at_the_head.follows("status", "--json").json["view"]
    assert (view["generation"], view["lag_events"], view["lag_s"]) == (7, 0, 0)
    assert view["partitions"][3] == {"partition": 3, "state": "ok", "position": 3, "lag_events": 0, "lag_s": 0}


def test_lag_is_that_of_the_partition_furthest_behind(at_the_head: Tools) -> None:
    """It is counted in events, and in seconds since the first event that the partition lacks."""

    async def work(engine: Engine, redis: RedisClient) -> None:
        await write(engine, (2, 1))
        await write(engine, (1, 2), (2, 1))
        await redis.call("HSET", VIEW.checkpoint(2), "position", 6)

    at_the_head.prepare(work)
    found = read(at_the_head)
    assert found.view is not None
    assert [partition.lag_events for partition in found.view.partitions] == [3, 3, 0, 3]
    assert found.view.lag_events == 3
    ages = [partition.lag_s for partition in found.view.partitions]
    last_age_s = log_of(found).last_event_age_s
    assert found.view.lag_s is not None and last_age_s is not None
    assert ages[2] == 0
    assert ages[0] == ages[1] == pytest.approx(found.view.lag_s, abs=1e-5) and found.view.lag_s > last_age_s > 0
    assert lines_of(found)[-2:] == ["       3 of 4 partitions are at 3 (3 behind); the others:", "       2: 6"]


def test_lag_is_unknown_when_the_clock_was_set_back_behind_the_events(one_behind: Tools) -> None:
    """Rather than none, or a time in the future. The lag in events is known all the same."""
    with psycopg.connect(one_behind.environment["DATABASE_URL"], autocommit=True) as sql:
        sql.execute("SET session_replication_role = replica")
        sql.execute("UPDATE events SET recorded_at = recorded_at + interval '2 hours'")
    found = read(one_behind)
    assert found.view is not None
    assert (log_of(found).last_event_age_s, found.view.lag_events, found.view.lag_s) == (None, 1, None)
    assert "log_clock_ahead" in codes(found)
    text = "\n".join(lines_of(found))
    assert "view   generation 1, lag 1 events, unknown time\n" in text and "  unknown  " in text
    assert "0: 1 unknown time, " in one_line(found)


def test_partitions_that_differ_are_named(at_the_head: Tools) -> None:
    """Lost, of another history, and beyond the log's end: reads of these are 503."""

    async def lose(_: Engine, redis: RedisClient) -> None:
        await redis.call("DEL", VIEW.checkpoint(1))
        await redis.call("HSET", VIEW.checkpoint(2), "position", 99_999)
        await redis.call("HSET", VIEW.checkpoint(3), "word", write_word(3, 1))

    at_the_head.prepare(lose)
    done = at_the_head.follows("status")
    lines = done.out.splitlines()
    assert done.code == 2
    errors = [line for line in lines if line.startswith("ERROR")]
    assert errors.pop().startswith("ERROR  other_feeder: nothing is projected: generation 7 in this Redis holds ")
    assert errors == [
        "ERROR  partition_lost: partition 1 of the view: lost; reads are 503",
        "ERROR  partition_ahead: partition 2 of the view: beyond the log's end; reads are 503",
        "ERROR  other_history: partition 3 of the view: of another history of the log; reads are 503",
    ]
    assert "view   generation 7, lag unknown" in lines
    assert lines[-2:] == [
        "       1 of 4 partitions are at 3; the others:",
        "       1: lost               2: 99,999, ahead      3: 3, other history",
    ]
    view = at_the_head.follows("status", "--json").json["view"]
    assert (view["lag_events"], view["lag_s"]) == (None, None)
    assert view["partitions"][1] == {
        "partition": 1,
        "state": "lost",
        "position": None,
        "lag_events": None,
        "lag_s": None,
    }


def test_pause_parked_events_erasures_and_jobs_are_shown(at_the_head: Tools) -> None:
    with psycopg.connect(at_the_head.environment["DATABASE_URL"], autocommit=True) as sql:
        sql.execute("SELECT erase_user(1)")

    async def hold_up(engine: Engine, _: RedisClient) -> None:
        await pause.pause_projection(engine, "kim", "moving house")
        await parked.park(engine, [(3, 1, 2, "too odd")])
        queue = await open_queue(queue_of(at_the_head.environment["QUEUE_URL"]))
        await queue.zadd(NAMES.queue(), {"wake": 1})
        await queue.aclose()

    at_the_head.prepare(hold_up)
    found = read(at_the_head)
    lines = lines_of(found)
    assert codes(found) == ["no_worker", "paused", "parked"] and found.exit_code == 1
    paused, behind = found.problems[1:]
    assert paused.since is not None and paused.since[:2] == "20" and paused.since.endswith("Z")
    assert paused.message == f"the projection is paused by kim since {paused.since} (moving house)"
    assert behind.message == "1 events are parked: the views do not hold them" and behind.since is not None
    assert "follows parked retry" in behind.do
    assert "       1 erased users have follows that must still be ended" in lines
    assert "queue  jobs waiting or running: 1" in lines
    log_ = log_of(found)
    assert (log_.parked, found.queue_jobs, log_.erasures_unfinished) == (1, 1, 1)


def test_each_lease_group_has_lag_and_owner(one_behind: Tools) -> None:
    """A group is at the position of its hindmost partition; with a lost partition it has none. One reading has
    no rates.
    """

    async def lose(_: Engine, redis: RedisClient) -> None:
        await redis.call("DEL", View(1, PARTITIONS).checkpoint(8 + 3))
        await redis.call("HSET", View(1, PARTITIONS).checkpoint(8 + 4), "position", 1)

    one_behind.prepare(lose)
    found = one_behind.follows_process("status", "--json").json
    assert (found["log"]["position"], found["log"]["rate"], found["log"]["paused"]) == (3, None, None)
    assert found["view"]["generation"] == 1
    groups = found["view"]["lease_groups"]
    assert [group["group"] for group in groups] == list(range(LEASE_GROUPS))
    assert [group["position"] for group in groups] == [2, 2, 2, None, 1, 2, 2, 2]
    assert [group["lag_events"] for group in groups] == [1, 1, 1, None, 2, 1, 1, 1]
    assert all(group["lag_s"] > 0 for group in groups if group["position"])
    assert {group["rate"] for group in groups} == {None}
    assert [group["owner"] for group in groups] == [str(OWNER)] * 2 + [None] * 6
    (worker,) = found["workers"]
    assert worker["owner"] == str(OWNER) and worker["lease_groups"] == [0, 1] and worker["projects"]
    assert worker["process"].startswith("tool ") and " on " in worker["process"] and worker["is_alive"]


def test_rates_are_those_between_two_readings(one_behind: Tools) -> None:
    """An event that is written meanwhile counts in the log's rate, a checkpoint that moves in its group's."""

    async def work(engine: Engine, redis: RedisClient) -> None:
        await write(engine, (2, 1))
        for partition in (0, 8):
            await redis.call("HSET", View(1, PARTITIONS).checkpoint(partition), "position", 4)

    found = read_twice(one_behind, work)[1]
    rate = log_of(found).rate
    assert found.view is not None and rate is not None
    lines = lines_of(found)
    assert any(line.startswith("log    position 4") and line.endswith(" events/s") for line in lines)
    assert any(line.endswith("  lag  seconds  events/s  worker") for line in lines)
    rates = [group.rate for group in found.view.lease_groups]
    assert rate > 0 and rates[0] == pytest.approx(2 * rate, abs=0.2) and set(rates[1:]) == {0.0}


@pytest.mark.parametrize("clock", ["-", "+"], ids=["as it was", "set back"])
def test_worker_that_does_not_renew_is_named(without_renewals: Tools, clock: str) -> None:
    """It is named with the time of its last renewal, by Postgres' clock. When it is the only worker, none is left.

    If that clock was set back meanwhile, the renewal is in the future.
    """
    set_seen(without_renewals, f"now() {clock} interval '95 seconds'")
    found = read(without_renewals)
    assert codes(found) == ["no_worker"]
    assert f"({str(OWNER)[:8]}), gave its last sign of life 9" in found.problems[0].message
    assert " (does not renew); lease groups 0, 1" in lines_of(found)[-1]

    async def another(engine: Engine, _: RedisClient) -> None:
        await leases.acquire_share(engine, ["group:2"], uuid4())

    found = read_twice(without_renewals, another)[1]
    assert codes(found) == ["worker_silent"]


def test_rates_are_missing_after_a_switch(one_behind: Tools) -> None:
    """The checkpoints of another generation are not comparable; the log's rate is still shown."""

    async def change(_: Engine, redis: RedisClient) -> None:
        await generations.prepare(redis, View(2, PARTITIONS), None, 1)
        await generations.switch(redis, View(2, PARTITIONS))

    found = read_twice(one_behind, change)[1]
    assert found.view is not None and log_of(found).rate == 0.0
    assert {group.rate for group in found.view.lease_groups} == {None}


def test_build_has_numbers(one_behind: Tools) -> None:
    """Position, head, events per second, time left, reason and owner."""

    async def begin(engine: Engine, redis: RedisClient) -> None:
        number = await view_register.register_generation(engine, PARTITIONS, "a test", above=1)
        await generations.prepare(redis, View(number, PARTITIONS), None, 1)
        for partition in range(PARTITIONS):
            await redis.call("HSET", View(number, PARTITIONS).checkpoint(partition), "position", 1)

    found = read_twice(one_behind, begin)[1]
    (build,) = found.builds
    assert (build.position, build.head, build.percent, build.reason, build.owner) == (1, 3, 33, "a test", None)
    assert build.events_per_s and build.seconds_left is not None
    assert codes(found) == ["build_stopped"]

    async def go_on(engine: Engine, redis: RedisClient) -> None:
        await leases.acquire(engine, leases.BUILD_LEASE, OWNER)
        await generations.clear_pointer(redis)

    found = read_twice(one_behind, go_on)[1]
    assert codes(found) == ["no_view"] and found.exit_code == 2
    assert found.problems[0].message.startswith("the view is being built: 33 %, about ")
    assert found.builds[0].owner == str(OWNER)


def test_events_that_the_log_has_lost_are_a_problem_until_the_views_of_before_are_pruned(one_behind: Tools) -> None:
    async def keep(engine: Engine, _: RedisClient) -> None:
        await view_register.set_kept(engine, 9, PARTITIONS, "kept: the log has lost what it had after 3")

    found = read_twice(one_behind, keep)[1]
    assert codes(found) == ["log_lost_events"] and "generations diff" in found.problems[0].do


def test_without_a_live_view_there_are_no_lease_groups(one_behind: Tools) -> None:
    async def clear(_: Engine, redis: RedisClient) -> None:
        await generations.clear_pointer(redis)

    one_behind.prepare(clear)
    assert one_behind.follows("status", "--json").json["view"] is None
    assert one_behind.follows("status").out.splitlines()[:2] == NO_VIEW


def test_watch_on_a_pipe_prints_lines_until_ctrl_c(one_behind: Tools) -> None:
    """With --json, one object per line, with the rate since the last one; Ctrl-C ends it with 0."""
    process = one_behind.start("status", "--watch", "--json")
    assert process.stdout is not None
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    assert first["log"]["rate"] is None and second["log"]["rate"] == 0.0 and second["at"] > first["at"]
    done = interrupt(process)
    assert done.code == 0 and done.err == ""

    process = one_behind.start("status", "--watch")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("well; log at 3; lag by lease group: 0: 1 ")
    assert interrupt(process).code == 0


def test_watch_on_a_terminal_redraws_until_ctrl_c(one_behind: Tools) -> None:
    """The status is drawn again and again on a screen of its own, which is closed at the end."""
    ours, theirs = pty.openpty()
    process = one_behind.start("status", "--watch", stdout=theirs)
    os.close(theirs)
    seen = b""
    while seen.count(b"log    position 3") < 2:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # the terminal's other side is closed
        pass
    os.close(ours)
    assert process.wait(COMMAND_TIMEOUT_S) == 0
    assert process.stderr is not None and process.stderr.read() == ""
    process.stderr.close()
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1


def test_redis_that_is_down_is_named_and_the_rest_is_shown(tools: Tools) -> None:
    """Which workers feed it is not known then, so none is missed."""
    away = tools.with_environment(REDIS_URL="redis://127.0.0.1:1", QUEUE_URL="redis://127.0.0.1:1")
    done = away.follows("status")
    assert done.code == 2
    lines = done.out.splitlines()
    assert lines[0].startswith("ERROR  redis_unreachable: the Redis of the views cannot be used: ")
    assert "Connect call failed" in lines[0] or "connecting to 127.0.0.1:1" in lines[0]
    assert lines[2].startswith("WARN   queue_unreachable: the queue does not answer: ")
    assert lines[-1] == "log    position 0"
    found = away.follows("status", "--json").json
    assert [problem["code"] for problem in found["problems"]] == ["redis_unreachable", "queue_unreachable"]


def test_without_postgres_the_rest_is_shown(at_the_head: Tools) -> None:
    """As JSON, too, with PostgreSQL's own words; also when Redis is down as well."""
    away = at_the_head.with_environment(DATABASE_URL="postgresql://postgres@127.0.0.1:1/x")
    done = away.follows("status", "--json")
    assert (done.code, done.json["state"], done.json["log"], done.err) == (2, "refused", None, "")
    assert done.json["problems"][0]["code"] == "postgres_unreachable"
    assert "Connection refused" in done.json["problems"][0]["message"]
    assert done.json["view"]["generation"] == 7
    assert done.json["view"]["lease_groups"][0] | {"owner": None} == {
        "group": 0,
        "position": 3,
        "lag_events": None,
        "lag_s": None,
        "rate": None,
        "owner": None,
    }
    assert "view   generation 7, lag unknown" in away.follows("status").out
    both = away.with_environment(REDIS_URL="redis://127.0.0.1:1", QUEUE_URL="redis://127.0.0.1:1")
    found = both.follows("status", "--json")
    assert found.code == 2
    codes_ = [problem["code"] for problem in found.json["problems"]]
    assert codes_ == ["postgres_unreachable", "redis_unreachable", "queue_unreachable"]


def test_database_without_tables_is_named(tools: Tools, servers: Servers) -> None:
    servers.administer("CREATE DATABASE without_tables")
    try:
        done = tools.with_environment(DATABASE_URL=servers.database_url("without_tables")).follows("status", "--json")
    finally:
        servers.administer("DROP DATABASE without_tables WITH (FORCE)")
    found = done.json["problems"][0]
    assert done.code == 2 and found["code"] == "log_not_usable" and "follows migrate" in found["message"]


def test_wrong_policy_refuses_reads(at_the_head: Tools, redis_url: str) -> None:
    """Web processes refuse reads then, so the status says why."""
    with Redis.from_url(redis_url) as raw_redis:
        raw_redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = at_the_head.follows("status")
        finally:
            raw_redis.config_set("maxmemory-policy", "noeviction")
    reason = "the Redis at REDIS_URL has maxmemory-policy allkeys-lru: set it to noeviction; reads are 503"
    assert found.code == 2 and f"ERROR  redis_evicts: {reason}" in found.out.splitlines()


def test_full_redis_is_named_in_its_own_words(one_behind: Tools, redis_url: str) -> None:
    with Redis.from_url(redis_url) as raw_redis:
        raw_redis.config_set("maxmemory", 1)
        try:
            found = read(one_behind)
        finally:
            raw_redis.config_set("maxmemory", 0)
    assert codes(found) == ["redis_refuses_writes"] and found.exit_code == 1
    assert "used memory > 'maxmemory'" in found.problems[0].message


def test_postgres_that_refuses_writes_is_named_in_its_own_words(one_behind: Tools) -> None:
    """As with a full disk, which a trigger stands for: it raises the error of a full disk."""
    with psycopg.connect(one_behind.environment["DATABASE_URL"], autocommit=True) as sql:
        sql.execute(
            """CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION
            'could not extend file "base/5/1": No space left on device' USING ERRCODE = 'disk_full'; END $$"""
        )
        sql.execute("CREATE TRIGGER disk BEFORE INSERT ON write_probes EXECUTE FUNCTION disk_is_full()")
    found = read(one_behind)
    assert codes(found) == ["postgres_refuses_writes"] and found.exit_code == 2
    assert "No space left on device" in found.problems[0].message


def test_probe_leaves_nothing_behind(one_behind: Tools, redis_url: str) -> None:
    read(one_behind)
    with psycopg.connect(one_behind.environment["DATABASE_URL"]) as sql, Redis.from_url(redis_url) as raw_redis:
        assert sql.execute("SELECT count(*) FROM write_probes").fetchall() == [(0,)]
        assert 0 < raw_redis.pttl("follows:probe") <= 1_000 or not raw_redis.exists("follows:probe")


def test_read_only_postgres_refuses_commands(one_behind: Tools) -> None:
    with read_only(one_behind.environment["DATABASE_URL"]):
        found = one_behind.follows("status", "--json")
    assert found.code == 2 and [one["code"] for one in found.json["problems"]] == ["postgres_read_only"]


@pytest.mark.parametrize(
    ("text", "exit_code", "code"),
    [('{"keys":[]}', 2, "no_key"), ("garbage", 1, "keys_not_read"), (None, 1, "keys_not_read")],
    ids=["no keys", "garbage", "no file"],
)
def test_keys_refuse_calls_only_where_the_set_is_empty(
    one_behind: Tools, tmp_path: Path, text: str | None, exit_code: int, code: str
) -> None:
    """Running web processes keep the keys that they have read while the set cannot be read again."""
    jwks = tmp_path / "keys.json"
    if text is not None:
        jwks.write_text(text)
    found = one_behind.with_environment(FOLLOWS_JWKS=str(jwks)).follows("status", "--json")
    assert found.code == exit_code and found.json["keys"]["count"] == 0
    assert [one["code"] for one in found.json["problems"]] == [code]


def test_problem_that_begins_while_watched_has_its_time(one_behind: Tools) -> None:
    async def lose(_: Engine, redis: RedisClient) -> None:
        await redis.call("DEL", View(1, PARTITIONS).checkpoint(3))

    found = read_twice(one_behind, lose)[1]
    assert codes(found) == ["partition_lost"] and found.problems[0].since is not None


def test_workers_of_one_redis_that_reach_different_servers_are_an_error(tools: Tools) -> None:
    """The Redis was copied by replication, with its word, and each copy has workers."""

    async def work(engine: Engine, redis: RedisClient) -> None:
        store = (await require_feeder(engine, redis)).store
        for run in ("a1", "b2"):
            await leases.acquire_share(engine, ["group:0"], uuid4(), store=store, runs=run)
        await leases.acquire_share(engine, ["group:0"], uuid4(), store="another", runs="c3")

    tools.prepare(work)
    found = tools.follows("status", "--json")
    error = "workers of one Redis reach different servers (run ids a1 and b2): one of them is a copy"
    assert error in [problem["message"] for problem in found.json["problems"]]


def test_redis_without_workers_beside_one_that_is_fed_refuses_reads(tools: Tools) -> None:
    """Starting workers would be the wrong advice: the service may have moved. Errors come before warnings."""

    async def work(engine: Engine, redis: RedisClient) -> None:
        await require_feeder(engine, redis)
        await leases.acquire_share(engine, ["group:0"], uuid4(), store="another")
        await pause.pause_projection(engine, "kim", "a test")

    tools.prepare(work)
    found = tools.follows("status", "--json")
    codes = [problem["code"] for problem in found.json["problems"]]
    assert found.code == 2 and set(codes[:2]) == {"no_view", "not_fed"} and codes[2:] == ["paused"]


def test_status_through_a_first_host_that_has_vanished_waits_for_the_second(at_the_head: Tools) -> None:
    with first_host(at_the_head.environment["DATABASE_URL"]) as (host, address):
        host.hold()
        lines = at_the_head.with_environment(DATABASE_URL=address).follows("status").out.splitlines()
    assert [line for line in lines if line.startswith("log    position 3")], lines
    assert not [line for line in lines if "postgres" in line], lines
