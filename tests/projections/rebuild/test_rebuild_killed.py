"""A rebuild killed at any of its steps: readers keep a whole view, and the next rebuild leaves no keys behind."""

import itertools
from typing import Any

import pytest

from commands.coordination import view_register as register
from commands.db.postgres import Engine
from projections.client.client import RedisClient
from projections.rebuild import build, rebuild, switch
from projections.signals.job_queue import QueueSettings
from projections.views import generations
from projections.views.leftovers import leftovers
from tests.support.fixtures import Plain
from tests.support.live_view import FAST, projecting, up_to_date_view
from tests.support.log_writes import Connection
from tests.support.rebuilds import Killed, built, rebuilt
from tests.support.small_world import write
from tests.support.view_model import actual, expected

STEPS = {
    "register_generation": build,
    "prepare": generations,
    "count_differences": rebuild,
    "set_state": switch,
    "delete": generations,
}


@pytest.mark.parametrize(
    ("step", "done"),
    [*itertools.product(STEPS, ("before", "after")), ("prepare", "half"), ("delete", "half")],
)
async def test_rebuild_killed_at_a_step_leaves_a_whole_view(
    engine: Engine,
    redis: RedisClient,
    sql: Connection,
    raw_redis: Plain,
    queue: QueueSettings,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    done: str,
) -> None:
    """The other steps of the switch are in test_rebuild."""
    await built(engine, redis, queue)
    old = await rebuilt(engine, redis, queue)  # so that there is one before the last, to be dropped
    real = getattr(STEPS[step], step)

    async def dies(*arguments: Any, **named: Any) -> None:
        if done == "half" and step == "delete":
            await generations.invalidate(*arguments)
        elif done != "before":
            await real(*arguments, **named)
        if done == "half" and step == "prepare":
            view = arguments[1]
            raw_redis.delete(*[view.checkpoint(partition) for partition in range(0, view.partitions, 2)])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(STEPS[step], step, dies)
        with pytest.raises(Killed):
            await rebuilt(engine, redis, queue)
    seen = await generations.live_view(redis)
    assert seen is not None and (seen == old) == (step in ("register_generation", "prepare", "count_differences"))
    await write(engine, (1, 2), (3, 4))
    async with projecting(engine, redis, queue, FAST):
        assert await up_to_date_view(engine, redis) == seen
        assert actual(raw_redis, seen) == expected(sql, seen)
    last = await rebuilt(engine, redis, queue)
    assert actual(raw_redis, last) == expected(sql, last)
    known = await register.list_generations(engine)
    assert [(row.number, row.state) for row in known] == [(seen.generation, "old"), (last.generation, "live")]
    assert [view.generation for view in await leftovers(redis)] == [seen.generation, last.generation]
    assert {key.split(b".")[0] for key in raw_redis.keys("{g*")} == {
        f"{{g{view.generation}".encode() for view in (seen, last)
    }
