"""`follows adopt`: what it shows, asks and does; what tools and `status` say before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.adopt import adopt_command
from commands.db.postgres import Engine
from commands.events import UserFollowed
from projections.client.client import RedisClient
from tests.support.cli_runner import Tools, tools_on
from tests.support.database_copies import copied
from tests.support.log_writes import append, register
from tests.support.queues import queue_of
from tests.support.rebuilds import rebuilt
from tests.support.servers import Servers


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """A database that feeds a Redis."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, redis: RedisClient) -> None:
        one, two = await register(engine, "ann", "bob")
        await append(engine, one, two, UserFollowed())
        await rebuilt(engine, redis, queue_of(queue_url))

    found.prepare(work)
    return found


@pytest.fixture
def copy(servers: Servers, database_url: str, tools: Tools) -> Iterator[Tools]:
    """A copy of it in front of the same Redis."""
    with copied(servers, database_url) as url:
        yield tools.with_environment(DATABASE_URL=url)


def test_feeder_has_nothing_to_adopt(tools: Tools) -> None:
    done = tools.follows("adopt")
    assert done.code == 0 and done.out.endswith("there is nothing to adopt: this database feeds this Redis\n")
    assert tools.follows("adopt", "--yes", "--json").json["adopted"] is False
    assert tools.follows("adopt", "--json").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("rebuild",),
        ("rebuild", "--user", "ann"),
        ("verify", "--repair"),
        ("undo-switch",),
        ("generations", "prune"),
        ("parked", "retry", "--all"),
        ("parked", "skip", "1", "--reason", "x"),
    ],
)
def test_command_that_may_write_views_is_refused_in_one_line(copy: Tools, words: tuple[str, ...]) -> None:
    done = copy.follows(*words)
    assert done.code in (1, 2) and done.err.startswith("follows: this Redis is fed by database t"), done
    assert done.err.endswith("`follows adopt` shows what there is and takes it over\n") and done.err.count("\n") == 1


def test_status_says_why_nothing_is_projected(tools: Tools, copy: Tools) -> None:
    assert "other_feeder" not in tools.follows("status").out
    done = copy.follows("status")
    assert done.code == 2 and "ERROR  other_feeder: nothing is projected: this Redis is fed by database t" in done.out


def test_adopt_shows_what_it_does_and_asks(tools: Tools, copy: Tools) -> None:
    """Only a yes changes anything."""
    runner = CliRunner(env=dict(copy.environment))
    refused = runner.invoke(adopt_command, input="n\n")
    assert refused.exit_code == 1 and "adopting it           generation 1 is continued" in refused.output
    assert refused.output.endswith("nothing was changed\n")
    assert "other_feeder" not in tools.follows("status").out
    taken = runner.invoke(adopt_command, input="y\n")
    assert taken.exit_code == 0 and taken.output.endswith("this Redis is fed by this database now\n")
    assert "other_feeder" not in copy.follows("status").out and "other_feeder" in tools.follows("status").out
    assert copy.follows("verify").code == 0


def test_views_that_the_log_has_not_are_kept(tools: Tools, copy: Tools, queue_url: str) -> None:
    async def diverge(engine: Engine, redis: RedisClient) -> None:
        (other,) = await register(engine, "cid")
        await append(engine, other, 1, UserFollowed())
        await rebuilt(engine, redis, queue_of(queue_url))

    tools.prepare(diverge)
    done = copy.follows("adopt", "--yes")
    assert done.code == 0
    assert "generation 2 is kept; reads are 503 until a worker has built the views from 3 events" in done.out
    assert [(row["number"], row["state"]) for row in copy.follows("generations", "--json").json][-1] == (2, "kept")
