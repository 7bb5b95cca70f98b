"""How long a batch holds Redis: readers wait for a script call, so a long batch is several of them."""

import pytest

from commands.db.postgres import Engine
from commands.events import UserFollowed
from projections.client.client import RedisClient
from projections.keys import View
from projections.projector.projector import LIVE_BATCH, Projector
from tests.support.fixtures import Plain
from tests.support.snapshots import follow, prepared

VIEW = View(1, 64)
# A key takes some 6 us of Valkey.
KEYS_MAX = 1_500


@pytest.mark.parametrize(("events", "fewest", "most"), [(60, 1, 1), (LIVE_BATCH, 3, 8)])
async def test_batch_is_as_many_script_calls_as_it_is_long(
    engine: Engine, redis: RedisClient, raw_redis: Plain, events: int, fewest: int, most: int
) -> None:
    """One is enough for what 60 callers send at once."""
    await prepared(engine, redis, VIEW, snapshot=False)
    projector = Projector(engine, redis, VIEW, dict.fromkeys(range(VIEW.partitions), 1))
    await projector.load()
    await follow(engine, [((1, 2), UserFollowed())])
    assert await projector.step(LIVE_BATCH) == 1  # from now on the server knows the script
    await follow(engine, [((7 * at + 8, 11 * at + 13), UserFollowed()) for at in range(events)])
    before = raw_redis.config_get("slowlog-*")
    raw_redis.config_set("slowlog-max-len", 10_000)
    raw_redis.config_set("slowlog-log-slower-than", 0)
    raw_redis.slowlog_reset()
    try:
        assert await projector.step(LIVE_BATCH) == events
        commands = [entry["command"].split() for entry in raw_redis.slowlog_get(10_000)]
    finally:
        for name in ("slowlog-max-len", "slowlog-log-slower-than"):
            raw_redis.config_set(name, before[name])
    calls = [int(command[2]) for command in commands if command[0] == b"EVALSHA"]
    assert fewest <= len(calls) <= most and max(calls) <= KEYS_MAX
    assert sum(calls) >= 2 * events
