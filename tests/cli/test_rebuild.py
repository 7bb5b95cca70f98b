"""`follows rebuild`, `undo-switch` and `generations`: their effect and their output, as text and as JSON."""

import asyncio
from pathlib import Path

import pytest
from redis import Redis

from commands.db.postgres import Engine
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.keys import View, member
from projections.rebuild.build import BuildLease, start_or_resume
from projections.rebuild.rebuild import Builder, RebuildOptions
from tests.support.cli_runner import Tools, tools_on
from tests.support.queues import queue_of
from tests.support.small_world import populate


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A world of twelve users, and generation 1 of its views."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, redis: RedisClient) -> None:
        await populate(engine)
        async with Builder(engine, redis, queue_of(queue_url)) as builder:
            await builder.rebuild(RebuildOptions(reason="a test"), lambda _: None)

    found.prepare(work)
    return found


def test_rebuild_and_undo_switch_change_the_live_generation(tools: Tools) -> None:
    """`generations` marks the live one and shows the checkpoint of each."""
    done = tools.follows_process("rebuild", "--partitions", 16)
    assert (done.code, done.out) == (0, "readers see generation 2 (16 partitions)\n")
    assert tools.follows("verify").code == 0
    lines = tools.follows("generations").out.splitlines()
    assert lines[0].startswith("     1  old       64 partitions, at position ") and lines[0].endswith("(100 %); a test")
    assert lines[1].startswith("*    2  live      16 partitions, at position ") and lines[1].endswith("; asked for")
    assert tools.follows("undo-switch").out == "readers see generation 1 (64 partitions)\n"
    assert tools.follows("undo-switch", "--json").json == {"generation": 2, "partitions": 16}
    rows = {row["number"]: (row["state"], row["live"]) for row in tools.follows("generations", "--json").json}
    assert rows == {1: ("old", False), 2: ("live", True)}
    assert tools.follows("generations", "prune").out.startswith("generation 1: ")
    assert tools.follows("generations", "prune", "--json").json == {}
    done = tools.follows("undo-switch")
    assert (done.code, done.err) == (1, "follows: there is no older generation to go back to\n")


def test_dry_run_prints_the_cost_and_writes_nothing(tools: Tools, redis_url: str) -> None:
    with Redis.from_url(redis_url) as raw_redis:
        before = raw_redis.dbsize()
        lines = tools.follows_process("rebuild", "--dry-run").out.splitlines()
        cost = tools.follows("rebuild", "--dry-run", "--json").json
        assert raw_redis.dbsize() == before

    async def events(engine: Engine, _: RedisClient) -> int:
        return (await log.head(engine)).position

    assert cost["events"] == tools.prepare(events) and cost["expected_bytes"] > 0 and cost["expected_s"] > 0
    assert lines[0] == f"events to project: {cost['events']}"
    assert [row["number"] for row in tools.follows("generations", "--json").json] == [1]


def test_rebuild_of_one_user_repairs_only_that_user(tools: Tools, redis_url: str) -> None:
    view = View(1, 64)
    with Redis.from_url(redis_url) as raw_redis:
        raw_redis.zadd(view.followers(1), {member(777): 1})
        raw_redis.delete(view.user(1))
        raw_redis.zadd(view.followers(2), {member(777): 1})
        assert tools.follows("rebuild", "--user", "u1").out == "rewrote 1 users: 2 values changed\n"
        assert raw_redis.zscore(view.followers(1), member(777)) is None and raw_redis.exists(view.user(1))
        assert raw_redis.zscore(view.followers(2), member(777)) == 1
    assert tools.follows("rebuild", "--user", "#2", "--user", "u1", "--json").json == {"users": 2, "changed": 1}
    assert tools.follows("verify").code == 0
    assert tools.follows("rebuild", "--user", "nobody").code == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--partitions", 12),
        ("--partitions", 0),
        ("--rate", 0),
        ("--workers", 0),
        ("--user", "u1", "--dry-run"),
        ("--user", "u1", "--workers", 2),
    ],
)
def test_wrong_options_are_wrong_usage(tools: Tools, words: tuple[object, ...]) -> None:
    done = tools.follows("rebuild", *words)
    assert done.code == 2 and "Error: " in done.err
    assert len(tools.follows("generations", "--json").json) == 1


def test_second_rebuild_is_refused_while_one_is_running(tools: Tools) -> None:
    async def while_somebody_builds(engine: Engine, redis: RedisClient) -> None:
        async with BuildLease(engine, redis):
            done = await asyncio.to_thread(tools.follows_process, "rebuild")
        assert (done.code, done.err) == (1, "follows: another rebuild is running: `follows generations` shows it\n")

    tools.prepare(while_somebody_builds)


def test_status_shows_an_unfinished_rebuild(tools: Tools) -> None:
    """With its progress and its reason."""

    async def begin(engine: Engine, redis: RedisClient) -> None:
        await start_or_resume(engine, redis, 64, 1, "a test")

    tools.prepare(begin)
    lines = tools.follows("status").out.splitlines()
    assert "build  generation 2 at 0 of 210, 0 %, no process builds it (a test)" in lines


def test_rebuild_job_is_queued_once(tools: Tools) -> None:
    """A queue that is down is an error in one line."""
    assert tools.follows("rebuild", "--job").out == "queued for the rebuilder\n"
    assert tools.follows("rebuild", "--job", "--json").json == {"queued": False}
    away = Tools({**tools.environment, "QUEUE_URL": "redis://127.0.0.1:1"})
    done = away.follows("rebuild", "--job")
    assert (done.code, done.err) == (1, "follows: the queue is not available\n")
