"""A Redis that an older development version wrote to, in front of a new database."""

import psycopg

from commands.db.postgres import Engine
from projections.client.client import RedisClient
from projections.keys import View
from projections.views import generations
from tests.support.fixtures import Plain
from tests.support.rebuilds import healed
from tests.support.small_world import populate
from tests.support.view_model import actual, expected

OLD = View(1, 64)


async def test_view_of_older_version_is_never_served_and_a_new_one_is_built(
    engine: Engine, redis: RedisClient, sql: psycopg.Connection, raw_redis: Plain
) -> None:
    """The pointer had another name, and checkpoints named the log in another field; the build removes what is left."""
    raw_redis.set("follows:view", b'{"generation":1,"lanes":64,"fence":3,"since":9}')
    raw_redis.set("follows:generations", 1)
    for partition in range(OLD.partitions):
        raw_redis.hset(OLD.checkpoint(partition), mapping={"position": 9, "fence": 3, "epoch": "an-older-log"})
    raw_redis.zadd(OLD.following(1), {"12": 34})
    await populate(engine)
    assert await generations.live_view(redis) is None

    view = await healed(engine, redis)

    assert await generations.live_view(redis) == view and view.generation > OLD.generation
    assert actual(raw_redis, view) == expected(sql, view)
    assert not list(raw_redis.scan_iter(match=OLD.pattern(), count=1000))
