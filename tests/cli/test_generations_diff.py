"""`follows generations diff`: what one generation has and another has not, in words and as JSON."""

from pathlib import Path

import pytest
from redis import Redis

from commands.db.postgres import Engine
from commands.events import UserFollowed
from projections.client.client import RedisClient
from projections.keys import View, member, score
from tests.support.cli_runner import Tools, tools_on
from tests.support.log_writes import append, register
from tests.support.queues import queue_of
from tests.support.rebuilds import rebuilt

OLD, NEW = View(1, 64), View(2, 64)


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Two equal generations: ann and bob follow each other."""
    found = tools_on(database_url, redis_url, queue_url, tmp_path)

    async def work(engine: Engine, redis: RedisClient) -> None:
        ann, bob, _ = await register(engine, "ann", "bob", "cid")
        await append(engine, ann, bob, UserFollowed(created_at=1_600_000_000_000_000))
        await append(engine, bob, ann, UserFollowed())
        for _ in range(2):
            await rebuilt(engine, redis, queue_of(queue_url))

    found.prepare(work)
    return found


def test_equal_generations_have_no_difference(tools: Tools) -> None:
    done = tools.follows("generations", "diff", 1, 2)
    assert (done.code, done.out) == (0, "0 differences\n")
    assert tools.follows("generations", "diff", 1, 2, "--json").out == ""


def test_each_kind_of_difference_is_one_line(tools: Tools, redis_url: str) -> None:
    """A follow that is gone, one that is new, one with another time; a profile that is gone, new and changed."""
    with Redis.from_url(redis_url) as raw_redis:
        raw_redis.zrem(NEW.following(2), member(1))
        raw_redis.zadd(NEW.following(3), {member(1): score(1_700_000_000_000_000, True)})
        raw_redis.zadd(NEW.following(1), {member(2): score(1_600_000_000_000_001, False)})
        raw_redis.delete(NEW.user(3))
        raw_redis.set(NEW.user(2), raw_redis.get(NEW.user(2)).replace(b'"display_name":"bob"', b'"display_name":"Rob"'))
        raw_redis.set(NEW.user(9), raw_redis.get(NEW.user(1)).replace(b'"id":"ann"', b'"id":"new"'))
    lines = tools.follows("generations", "diff", 1, 2).out.splitlines()
    bobs = [line for line in lines if line.startswith("bob (#2) follows ann (#1): since ")]
    assert len(bobs) == 1 and bobs[0].endswith(" in 1, not in 2")
    assert set(lines) - set(bobs) == {
        "6 differences",
        "ann (#1) follows bob (#2): since 2020-09-13T12:26:40Z in 1, since 2020-09-13T12:26:40.000001Z in 2",
        "bob (#2): display_name",
        "cid (#3): only in 1",
        "cid (#3) follows ann (#1): not in 1, since 2023-11-14T22:13:20Z with notifications in 2",
        "new (#9): only in 2",
    }
    found = {one["what"]: one for one in tools.follows("generations", "diff", 1, 2, "--json").objects}
    assert found["follow"].keys() == {"what", "follower", "followed", "old", "new"}
    assert found["profile"].keys() == {"what", "old", "new", "fields"}


def test_generation_that_is_not_there_is_refused(tools: Tools) -> None:
    done = tools.follows("generations", "diff", 1, 3)
    assert (done.code, done.out) == (1, "")
    assert done.err == "follows: there is no whole generation 3: `follows generations` shows them\n"
