"""`follows status`: what it says of a log and a view in every state, to people and to programs."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from cli.imports import imports
from cli.status import status
from commands import log, parking, pauses
from commands.postgres import Engine, PostgresSettings, create_engine
from projections import generations
from projections.keys import QUEUE, View
from projections.store import Store, StoreSettings, open_store
from projections.wakeup import QueueSettings, open_queue

VIEW = View(7, 4)


@pytest.fixture
def urls(database_url: str, redis_url: str, queue_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The three servers, also as environment."""
    found = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "QUEUE_URL": queue_url}
    for name, url in found.items():
        monkeypatch.setenv(name, url)
    return found


def prepare(urls: dict[str, str], work: Callable[[Engine, Store], Awaitable[Any]]) -> None:
    """Runs ``work`` on the servers, outside of any loop of the test."""

    async def run() -> None:
        engine, store = (
            create_engine(PostgresSettings(urls["DATABASE_URL"])),
            open_store(StoreSettings(urls["REDIS_URL"])),
        )
        try:
            await work(engine, store)
        finally:
            await store.close()
            await engine.dispose()

    asyncio.run(run())


async def view_at_the_head(engine: Engine, store: Store) -> None:
    """A live view of four lanes, all at the log's end."""
    head = await log.head(engine)
    await generations.prepare(store, VIEW, head.epoch, 1)
    for lane in range(VIEW.lanes):
        await store.call("HSET", VIEW.checkpoint(lane), "position", head.position)
    await generations.switch(store, VIEW)


def follow(pair: str) -> None:
    """One more follow in the log, without a wake-up."""
    text = f"follower,followed\n{pair}\n"
    assert CliRunner().invoke(imports, ["follows", "-", "--create-users"], input=text).exit_code == 0


def run(*arguments: str) -> Result:
    """`follows status`."""
    return CliRunner().invoke(status, arguments)


def read() -> dict[str, Any]:
    """`follows status --json`."""
    found: dict[str, Any] = json.loads(run("--json").stdout)
    return found


def test_an_empty_log_without_a_view(urls: dict[str, str]) -> None:
    """Is no error: the first worker will build one."""
    assert run().stdout.splitlines() == [
        "log    position 0",
        "queue  jobs waiting or running: 0",
        "view   there is none yet: it is being built, or no worker runs",
    ]
    found = read()
    assert (found["view"], found["log"]["last_event_age_s"], found["errors"]) == (None, None, [])


def test_a_view_at_the_head(urls: dict[str, str]) -> None:
    """Has no lag, whatever the age of the last event."""
    follow("a,b")
    prepare(urls, view_at_the_head)
    lines = run().stdout.splitlines()
    assert lines[0].startswith("log    position 3, last event ")
    assert lines[2:] == [
        "view   generation 7, lag 0 events, 0.0 s",
        "       4 lanes, each with its checkpoint (and how many events that is behind):",
        "       0: 3   1: 3   2: 3   3: 3",
    ]
    view = read()["view"]
    assert (view["generation"], view["lag_events"], view["lag_s"]) == (7, 0, 0)
    assert view["lanes"][3] == {"lane": 3, "position": 3, "lag_events": 0, "lag_s": 0}


def test_lag_is_that_of_the_last_lane(urls: dict[str, str]) -> None:
    """In positions, and in seconds since the first event that the lane lacks."""
    follow("a,b")
    prepare(urls, view_at_the_head)
    follow("b,a")
    follow("a,c")

    async def one_further(_: Engine, store: Store) -> None:
        await store.call("HSET", VIEW.checkpoint(2), "position", 6)

    prepare(urls, one_further)
    found = read()
    assert [lane["lag_events"] for lane in found["view"]["lanes"]] == [3, 3, 0, 3]
    assert found["view"]["lag_events"] == 3
    ages = [lane["lag_s"] for lane in found["view"]["lanes"]]
    assert ages[2] == 0
    assert ages[0] == ages[1] == found["view"]["lag_s"] > found["log"]["last_event_age_s"] > 0
    assert run().stdout.splitlines()[-1] == "       0: 3 (3)   1: 3 (3)   2: 6       3: 3 (3)"


def test_a_lost_lane_and_a_view_of_another_log(urls: dict[str, str]) -> None:
    """Are said to be lost; nothing is made up about their lag."""
    follow("a,b")
    prepare(urls, view_at_the_head)

    async def lose(_: Engine, store: Store) -> None:
        await store.call("DEL", VIEW.checkpoint(1))
        await store.call("HSET", VIEW.checkpoint(3), "epoch", "00000000-0000-0000-0000-000000000000")

    prepare(urls, lose)
    lines = run().stdout.splitlines()
    assert lines[2] == "view   generation 7, some lanes are lost"
    assert lines[-1] == "       0: 3      1: lost   2: 3      3: lost"
    view = read()["view"]
    assert view["lag_s"] is None
    assert view["lanes"][1] == {"lane": 1, "position": None, "lag_events": None, "lag_s": None}


def test_what_holds_the_views_up(urls: dict[str, str]) -> None:
    """A pause, parked events, unfinished erasures and the queue's jobs are told."""
    follow("a,b")
    with psycopg.connect(urls["DATABASE_URL"], autocommit=True) as sql:
        sql.execute("SELECT erase_user(1)")

    async def hold_up(engine: Engine, _: Store) -> None:
        await pauses.pause(engine, "kim", "moving house")
        await parking.park(engine, [(3, 1, 2, "too odd")])
        queue = await open_queue(QueueSettings(urls["QUEUE_URL"]))
        await queue.zadd(QUEUE, {"drain": 1})
        await queue.aclose()

    prepare(urls, hold_up)
    lines = run().stdout.splitlines()
    assert lines[1] == "       1 erased users have follows that must still be ended"
    assert lines[2].startswith("       the projection is paused by kim since 20")
    assert lines[2].endswith(" (moving house)")
    assert lines[3] == "       1 events are parked: the views do not hold them"
    assert lines[4] == "queue  jobs waiting or running: 1"
    found = read()
    assert (found["parked"], found["queue_jobs"], found["log"]["erasures_unfinished"]) == (1, 1, 1)


def test_servers_that_do_not_answer(urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Are named, the rest is told, and the exit code is 1."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("QUEUE_URL", "redis://127.0.0.1:1")
    result = run()
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "log    position 0",
        "error  the read store is not available",
        "error  the queue does not answer",
    ]
    assert read()["errors"] == ["the read store is not available", "the queue does not answer"]
