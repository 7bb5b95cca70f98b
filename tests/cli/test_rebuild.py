"""`follows rebuild`, `undo-switch` and `generations`: what they do and say, to people and to programs."""

import asyncio
from pathlib import Path

import pytest
from redis import Redis

from commands import log
from commands.postgres import Engine
from projections.building import BuildLease, start_or_resume
from projections.keys import View, member
from projections.rebuilding import Builder, Order
from projections.store import Store
from projections.wakeup import QueueSettings
from tests.cli.tooling import Tools, tools_on
from tests.projections.worlds import populate


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A world of twelve users, and generation 1 of its views."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, store: Store) -> None:
        await populate(engine)
        async with Builder(engine, store, QueueSettings(queue_url)) as builder:
            await builder.rebuild(Order(reason="a test"), lambda _: None)

    found.prepare(work)
    return found


def test_a_rebuild_and_the_way_back(tools: Tools) -> None:
    """Each says which generation readers see; the list says which one that is, and where each stands."""
    done = tools.really("rebuild", "--lanes", 16)
    assert (done.code, done.out) == (0, "readers see generation 2 (16 lanes)\n")
    assert tools.follows("verify").code == 0
    lines = tools.follows("generations").out.splitlines()
    assert lines[0].startswith("     1  old       64 lanes, at position ") and lines[0].endswith("(100 %); a test")
    assert lines[1].startswith("*    2  live      16 lanes, at position ") and lines[1].endswith("; asked for")
    assert tools.follows("undo-switch").out == "readers see generation 1 (64 lanes)\n"
    assert tools.follows("undo-switch", "--json").json == {"generation": 2, "lanes": 16}
    rows = {row["number"]: (row["state"], row["seen"]) for row in tools.follows("generations", "--json").json}
    assert rows == {1: ("old", False), 2: ("live", True)}
    assert tools.follows("generations", "prune").out.startswith("generation 1: ")
    assert tools.follows("generations", "prune", "--json").json == {}
    done = tools.follows("undo-switch")
    assert (done.code, done.err) == (1, "follows: there is no older generation to go back to\n")


def test_a_dry_run_says_what_it_costs_and_does_nothing(tools: Tools, redis_url: str) -> None:
    """Events, bytes and time."""
    with Redis.from_url(redis_url) as redis:
        before = redis.dbsize()
        lines = tools.really("rebuild", "--dry-run").out.splitlines()
        cost = tools.follows("rebuild", "--dry-run", "--json").json
        assert redis.dbsize() == before

    async def events(engine: Engine, _: Store) -> int:
        return (await log.head(engine)).position

    assert cost["events"] == tools.prepare(events) and cost["expected_bytes"] > 0 and cost["expected_s"] > 0
    assert lines[0] == f"events to project: {cost['events']}"
    assert [row["number"] for row in tools.follows("generations", "--json").json] == [1]


def test_one_users_views_are_made_anew_in_place(tools: Tools, redis_url: str) -> None:
    """What was broken of others stays broken."""
    view = View(1, 64)
    with Redis.from_url(redis_url) as redis:
        redis.zadd(view.followers(1), {member(777): 1})
        redis.delete(view.user(1))
        redis.zadd(view.followers(2), {member(777): 1})
        assert tools.follows("rebuild", "--user", "u1").out == "made 1 users anew: 2 values were others\n"
        assert redis.zscore(view.followers(1), member(777)) is None and redis.exists(view.user(1))
        assert redis.zscore(view.followers(2), member(777)) == 1
    assert tools.follows("rebuild", "--user", "#2", "--user", "u1", "--json").json == {"users": 2, "changed": 1}
    assert tools.follows("verify").code == 0
    assert tools.follows("rebuild", "--user", "nobody").code == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--lanes", 12),
        ("--lanes", 0),
        ("--rate", 0),
        ("--workers", 0),
        ("--user", "u1", "--dry-run"),
        ("--user", "u1", "--workers", 2),
    ],
)
def test_what_makes_no_sense_is_refused(tools: Tools, words: tuple[object, ...]) -> None:
    """As wrong usage, before anything is done."""
    done = tools.follows("rebuild", *words)
    assert done.code == 2 and "Error: " in done.err
    assert len(tools.follows("generations", "--json").json) == 1


def test_a_second_rebuild_is_told_of_the_first(tools: Tools) -> None:
    """In one line, with exit code 1."""

    async def while_somebody_builds(engine: Engine, _: Store) -> None:
        async with BuildLease(engine):
            done = await asyncio.to_thread(tools.really, "rebuild")
        assert (done.code, done.err) == (1, "follows: another rebuild is running: `follows generations` shows it\n")

    tools.prepare(while_somebody_builds)


def test_an_unfinished_rebuild_is_in_the_status(tools: Tools) -> None:
    """How far it is, and what it is for."""

    async def begin(engine: Engine, store: Store) -> None:
        await start_or_resume(engine, store, 64, 1, (await log.head(engine)).epoch, "a test")

    tools.prepare(begin)
    assert "build  generation 2, 0 % (a test)" in tools.follows("status").out.splitlines()


def test_a_job_is_queued_once(tools: Tools) -> None:
    """And a queue that is away is told of."""
    assert tools.follows("rebuild", "--job").out == "the rebuilder will do it\n"
    assert tools.follows("rebuild", "--job", "--json").json == {"queued": False}
    away = Tools({**tools.environment, "QUEUE_URL": "redis://127.0.0.1:1"})
    done = away.follows("rebuild", "--job")
    assert (done.code, done.err) == (1, "follows: the queue is not available\n")
