"""`follows status`: its output for a log and a view in every state, as text, as JSON, and repeated."""

import json
import os
import pty
import signal
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from redis import Redis

from cli.service_status import ServiceStatus, read_status
from cli.status import lines_of, one_line
from commands.coordination import leases, parked, pause
from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.keys import LEASE_GROUPS, View, write_word
from projections.signals.job_queue import open_queue
from projections.views import generations
from tests.support.cli_runner import COMMAND_TIMEOUT_S, Tools, interrupt, tools_on
from tests.support.queues import NAMES, queue_of
from tests.support.small_world import people, viewed, write

VIEW = View(7, 4)
PARTITIONS = 16
OWNER = uuid4()
NO_VIEW = "view   there is none yet: it is being built, or no worker is running"


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
def one_behind(tools: Tools) -> Tools:
    """A view of sixteen partitions, one event behind the log; a worker holds the leases of the groups 0 and 1."""

    async def work(engine: Engine, redis: RedisClient) -> None:
        await people(engine, 2)
        await viewed(engine, redis, PARTITIONS)
        await write(engine, (1, 2))
        await leases.acquire_share(engine, ["group:0", "group:1"], OWNER)

    tools.prepare(work)
    return tools


def read(tools: Tools) -> ServiceStatus:
    """Return one reading, as `follows status` shows it."""

    async def work(engine: Engine, redis: RedisClient) -> ServiceStatus:
        return await read_status(engine, redis, queue_of(tools.environment["QUEUE_URL"]))

    return tools.prepare(work)


def test_empty_log_without_view_is_not_an_error(tools: Tools) -> None:
    done = tools.follows("status")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["log    position 0", "queue  jobs waiting or running: 0", NO_VIEW]
    found = tools.follows("status", "--json").json
    assert (found["view"], found["log"]["last_event_age_s"], found["errors"]) == (None, None, [])


def test_view_at_the_head_has_no_lag(at_the_head: Tools) -> None:
    """Whatever the age of the last event. The command's text ends with lease groups and partitions."""
    done = at_the_head.follows_process("status")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("log    position 3, last event ") and lines[0].endswith(" s ago")
    assert lines[2:] == [
        "view   generation 7, lag 0 events, 0.0 s",
        "       lease group  position  lag  seconds  worker",
        *(f"       {group} of 8              3    0      0.0  none" for group in range(4)),
        "       4 partitions, each with its checkpoint (and its lag in events):",
        "       0: 3   1: 3   2: 3   3: 3",
    ]
    view = at_the_head.follows("status", "--json").json["view"]
    assert (view["generation"], view["lag_events"], view["lag_s"]) == (7, 0, 0)
    assert view["partitions"][3] == {"partition": 3, "position": 3, "lag_events": 0, "lag_s": 0}


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
    assert found.view.lag_s is not None and found.log.last_event_age_s is not None
    assert ages[2] == 0
    assert ages[0] == ages[1] == found.view.lag_s > found.log.last_event_age_s > 0
    assert lines_of(found)[-1] == "       0: 3 (3)   1: 3 (3)   2: 6       3: 3 (3)"


def test_lag_is_unknown_when_the_clock_was_set_back_behind_the_events(one_behind: Tools) -> None:
    """Rather than none, or a time in the future. The lag in events is known all the same."""
    with psycopg.connect(one_behind.environment["DATABASE_URL"], autocommit=True) as sql:
        sql.execute("SET session_replication_role = replica")
        sql.execute("UPDATE events SET recorded_at = recorded_at + interval '2 hours'")
    found = read(one_behind)
    assert found.view is not None
    assert (found.log.last_event_age_s, found.view.lag_events, found.view.lag_s) == (None, 1, None)
    text = "\n".join(lines_of(found))
    assert "log    position 3, last event dated ahead of PostgreSQL's clock\n" in text
    assert "view   generation 1, lag 1 events, unknown time\n" in text and "  unknown  " in text
    assert "0: 1 unknown time, " in one_line(found)


def test_lost_partition_and_partition_of_another_history_are_lost(at_the_head: Tools) -> None:
    async def lose(_: Engine, redis: RedisClient) -> None:
        await redis.call("DEL", VIEW.checkpoint(1))
        await redis.call("HSET", VIEW.checkpoint(3), "word", write_word(3, 1))

    at_the_head.prepare(lose)
    lines = at_the_head.follows("status").out.splitlines()
    assert "view   generation 7, some partitions are lost" in lines
    assert lines[-1] == "       0: 3      1: lost   2: 3      3: lost"
    view = at_the_head.follows("status", "--json").json["view"]
    assert (view["lag_events"], view["lag_s"]) == (None, None)
    assert view["partitions"][1] == {"partition": 1, "position": None, "lag_events": None, "lag_s": None}


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
    assert lines[1] == "       1 erased users have follows that must still be ended"
    assert lines[2].startswith("       the projection is paused by kim since 20")
    assert lines[2].endswith(" (moving house)")
    assert lines[3] == "       1 events are parked: the views do not hold them; see `follows parked`"
    assert lines[4] == "queue  jobs waiting or running: 1"
    assert (found.parked, found.queue_jobs, found.log.erasures_unfinished) == (1, 1, 1)


def test_each_lease_group_has_lag_and_owner(one_behind: Tools) -> None:
    """A group is at the position of its hindmost partition; with a lost partition it has none. One reading has
    no rates.
    """

    async def lose(_: Engine, redis: RedisClient) -> None:
        await redis.call("DEL", View(1, PARTITIONS).checkpoint(8 + 3))
        await redis.call("HSET", View(1, PARTITIONS).checkpoint(8 + 4), "position", 1)

    one_behind.prepare(lose)
    found = one_behind.follows_process("status", "--json").json
    assert (found["log"]["position"], found["log"]["rate"], found["paused"]) == (3, None, None)
    assert found["view"]["generation"] == 1
    groups = found["view"]["lease_groups"]
    assert [group["group"] for group in groups] == list(range(LEASE_GROUPS))
    assert [group["position"] for group in groups] == [2, 2, 2, None, 1, 2, 2, 2]
    assert [group["lag_events"] for group in groups] == [1, 1, 1, None, 2, 1, 1, 1]
    assert all(group["lag_s"] > 0 for group in groups if group["position"])
    assert {group["rate"] for group in groups} == {None}
    assert [group["owner"] for group in groups] == [str(OWNER)] * 2 + [None] * 6
    assert [group["renewed"] for group in groups] == [False] * 2 + [None] * 6, "it was seen twice, and did nothing"


def test_rates_are_those_between_two_readings(one_behind: Tools) -> None:
    """An event that is written meanwhile counts in the log's rate, a checkpoint that moves in its group's."""

    async def work(engine: Engine, redis: RedisClient) -> ServiceStatus:
        queue = queue_of(one_behind.environment["QUEUE_URL"])
        first = await read_status(engine, redis, queue)
        await write(engine, (2, 1))
        for partition in (0, 8):
            await redis.call("HSET", View(1, PARTITIONS).checkpoint(partition), "position", 4)
        return await read_status(engine, redis, queue, first)

    found = one_behind.prepare(work)
    assert found.view is not None and found.log.rate is not None
    lines = lines_of(found)
    assert lines[0].endswith(" events/s") and lines[3].endswith("  lag  seconds  events/s  worker")
    rates = [group.rate for group in found.view.lease_groups]
    assert found.log.rate > 0 and rates[0] == pytest.approx(2 * found.log.rate, abs=0.2) and set(rates[1:]) == {0.0}


def test_worker_that_renews_is_told_from_one_that_does_not(one_behind: Tools) -> None:
    """No clock is asked: the number of the renewal is compared with that of the reading before."""

    async def work(engine: Engine, redis: RedisClient) -> list[ServiceStatus]:
        queue = queue_of(one_behind.environment["QUEUE_URL"])
        readings = [await read_status(engine, redis, queue)]
        for renews in (True, False, False):
            if renews:
                await leases.acquire_share(engine, ["group:0", "group:1"], OWNER)
            readings.append(await read_status(engine, redis, queue, readings[-1]))
        return readings

    readings = one_behind.prepare(work)
    assert [one.view and one.view.lease_groups[0].renewed for one in readings] == [None, True, None, False]
    assert "\n".join(lines_of(readings[-1])).count(f"  {str(OWNER)[:8]} (does not renew)\n") == 2


def test_rates_are_missing_after_a_switch(one_behind: Tools) -> None:
    """The checkpoints of another generation are not comparable; the log's rate is still shown."""

    async def work(engine: Engine, redis: RedisClient) -> ServiceStatus:
        queue = queue_of(one_behind.environment["QUEUE_URL"])
        first = await read_status(engine, redis, queue)
        assert first.view is not None
        first.view.generation -= 1
        return await read_status(engine, redis, queue, first)

    found = one_behind.prepare(work)
    assert found.view is not None and found.log.rate == 0.0
    assert {group.rate for group in found.view.lease_groups} == {None}


def test_text_shows_owners_and_pause(one_behind: Tools) -> None:
    async def work(engine: Engine, redis: RedisClient) -> ServiceStatus:
        await pause.pause_projection(engine, "kim", "a test")
        return await read_status(engine, redis, queue_of(one_behind.environment["QUEUE_URL"]))

    text = "\n".join(lines_of(one_behind.prepare(work)))
    assert "events/s" not in text and "the projection is paused by kim" in text and "view   generation 1, " in text
    assert text.count(str(OWNER)[:8]) == 2 and text.count("  none\n") == LEASE_GROUPS - 2


def test_without_a_live_view_there_are_no_lease_groups(one_behind: Tools) -> None:
    async def clear(_: Engine, redis: RedisClient) -> None:
        await generations.clear_pointer(redis)

    one_behind.prepare(clear)
    assert one_behind.follows("status", "--json").json["view"] is None
    assert NO_VIEW in one_behind.follows("status").out


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
    assert process.stdout.readline().startswith("log at 3; lag by lease group: 0: 1 ")
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
    """The exit code is 1."""
    away = tools.with_environment(REDIS_URL="redis://127.0.0.1:1", QUEUE_URL="redis://127.0.0.1:1")
    done = away.follows("status")
    assert done.code == 1
    assert done.out.splitlines() == [
        "log    position 0",
        "error  the read store is not available",
        "error  the queue does not answer",
    ]
    errors = away.follows("status", "--json").json["errors"]
    assert errors == ["the read store is not available", "the queue does not answer"]


def test_postgres_that_is_down_is_one_line(tools: Tools) -> None:
    away = tools.with_environment(DATABASE_URL="postgresql://postgres@127.0.0.1:1/x")
    done = away.follows("status")
    assert done.code == 1 and done.err.startswith("follows: PostgreSQL cannot be used") and done.err.count("\n") == 1


def test_wrong_policy_is_an_error_with_exit_code_1(at_the_head: Tools, redis_url: str) -> None:
    """Web processes refuse reads then, so the status says why."""
    with Redis.from_url(redis_url) as raw_redis:
        raw_redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = at_the_head.follows("status")
        finally:
            raw_redis.config_set("maxmemory-policy", "noeviction")
    reason = "the Redis at REDIS_URL has maxmemory-policy allkeys-lru: set it to noeviction; reads are 503"
    assert found.code == 1 and f"error  {reason}" in found.out.splitlines()
