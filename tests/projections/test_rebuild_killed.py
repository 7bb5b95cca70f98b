"""A rebuild that is killed at any of its steps: readers keep a whole view, and the next one leaves nothing behind."""

import itertools
from typing import Any

import pytest

from commands import generations as register
from commands.postgres import Engine
from projections import building, generations, rebuilding
from projections.store import Store
from projections.wakeup import QueueSettings
from tests.commands.writing import Connection
from tests.opened import Plain
from tests.projections.model import actual, expected
from tests.projections.test_rebuilding import Killed, built, draining, queue, rebuilt
from tests.projections.watching import level
from tests.projections.worlds import write

__all__ = ["queue"]


STEPS = {
    "begin_generation": building,
    "prepare": generations,
    "differences": rebuilding,
    "hand_over": rebuilding,
    "drop": generations,
}


@pytest.mark.parametrize(
    ("step", "done"),
    [*itertools.product(STEPS, ("before", "after")), ("prepare", "half"), ("drop", "half")],
)
async def test_killed_at(
    engine: Engine,
    store: Store,
    sql: Connection,
    redis: Plain,
    queue: QueueSettings,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    done: str,
) -> None:
    """The steps of the switch itself are in test_rebuilding."""
    await built(engine, store, queue)
    old = await rebuilt(engine, store, queue)  # so that there is one before the last, to be dropped
    real = getattr(STEPS[step], step)

    async def dies(*arguments: Any, **named: Any) -> None:
        if done == "half" and step == "drop":
            await generations.lose(*arguments)
        elif done != "before":
            await real(*arguments, **named)
        if done == "half" and step == "prepare":
            view = arguments[1]
            redis.delete(*[view.checkpoint(lane) for lane in range(0, view.lanes, 2)])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(STEPS[step], step, dies)
        with pytest.raises(Killed):
            await rebuilt(engine, store, queue)
    seen = await generations.live_view(store)
    assert seen is not None and (seen == old) == (step in ("begin_generation", "prepare", "differences"))
    await write(engine, (1, 2), (3, 4))
    async with draining(engine, store, queue):
        assert await level(engine, store) == seen
        assert actual(redis, seen) == expected(sql, seen)
    last = await rebuilt(engine, store, queue)
    assert actual(redis, last) == expected(sql, last)
    known = await register.registered(engine)
    assert [(row.number, row.state) for row in known] == [(seen.generation, "old"), (last.generation, "live")]
    assert [view.generation for view in await generations.found(store)] == [seen.generation, last.generation]
    assert {key.split(b".")[0] for key in redis.keys("{g*")} == {
        f"{{g{view.generation}".encode() for view in (seen, last)
    }
