"""`follows lag`: how far the lanes are behind, once and again and again."""

import json
import os
import pty
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from commands import leases, pauses
from commands.postgres import Engine
from projections import generations
from projections.keys import GROUPS, View
from projections.store import Store
from tests.cli.tooling import LIMIT_S, Tools, interrupt, tools_on
from tests.projections.worlds import people, viewed, write

LANES = 16
OWNER = uuid4()


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A view of sixteen lanes, one event behind the log; a worker holds the leases of the groups 0 and 1."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, store: Store) -> None:
        numbers = await people(engine, 2)
        await viewed(engine, store, LANES)
        await write(engine, (numbers[0], numbers[1]))
        await leases.share(engine, ["lanes:0", "lanes:1"], OWNER, 600.0)

    found.prepare(work)
    return found


def test_each_group_of_lanes(tools: Tools) -> None:
    """Where its hindmost lane stands, how far that is behind, and whose it is; a lost lane has no position."""

    async def lose(_: Engine, store: Store) -> None:
        await store.call("DEL", View(1, LANES).checkpoint(8 + 3))
        await store.call("HSET", View(1, LANES).checkpoint(8 + 4), "position", 1)

    tools.prepare(lose)
    found = tools.really("lag", "--json").json
    assert (found["head"], found["generation"], found["paused"], found["rate"]) == (3, 1, False, 0.0)
    groups = found["groups"]
    assert [group["position"] for group in groups] == [2, 2, 2, None, 1, 2, 2, 2]
    assert [group["lag_events"] for group in groups] == [1, 1, 1, None, 2, 1, 1, 1]
    assert all(group["lag_s"] > 0 and group["rate"] == 0.0 for group in groups if group["position"])
    assert [group["owner"] for group in groups] == [str(OWNER)] * 2 + [None] * 6


def test_a_table_for_people(tools: Tools) -> None:
    async def pause(engine: Engine, _: Store) -> None:
        await pauses.pause(engine, "somebody", "a test")

    tools.prepare(pause)
    done = tools.follows("lag")
    assert done.code == 0 and "log at 3, 0 events/s; generation 1; paused" in done.out
    assert done.out.count(str(OWNER)[:8]) == 2 and done.out.count("nobody") == GROUPS - 2


def test_without_a_view(tools: Tools) -> None:
    async def forget(_: Engine, store: Store) -> None:
        await generations.forget(store)

    tools.prepare(forget)
    found = tools.follows("lag", "--json").json
    assert found["generation"] is None and found["groups"] == []
    assert "no view yet" in tools.follows("lag").out


def test_watching_a_pipe_until_ctrl_c(tools: Tools) -> None:
    """One object a line, with the rate since the last one; ended by Ctrl-C with 0."""
    process = tools.start("lag", "--watch", "--json")
    assert process.stdout is not None
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    assert first["rate"] is None and second["rate"] == 0.0 and second["at"] > first["at"]
    done = interrupt(process)
    assert done.code == 0 and done.err == ""


def test_watching_a_terminal_until_ctrl_c(tools: Tools) -> None:
    """The table is drawn again and again on a screen of its own, which is left as it was."""
    ours, theirs = pty.openpty()
    process = tools.start("lag", "--watch", stdout=theirs)
    os.close(theirs)
    seen = b""
    while seen.count(b"log at 3") < 2:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # the terminal's other side is closed
        pass
    os.close(ours)
    assert process.wait(LIMIT_S) == 0
    assert process.stderr is not None and process.stderr.read() == ""
    process.stderr.close()
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1


def test_a_server_that_is_down_is_one_line(tools: Tools) -> None:
    gone = Tools({**tools.environment, "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/x"})
    done = gone.follows("lag")
    assert done.code == 1 and done.err.startswith("follows: PostgreSQL cannot be used") and done.err.count("\n") == 1
    gone = Tools({**tools.environment, "REDIS_URL": "redis://127.0.0.1:1"})
    assert gone.follows("lag").err == "follows: the read store is not available\n"
