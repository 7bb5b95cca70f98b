"""The rebuilder's net: a rebuild whose worker is gone is found, and one that is alive is left alone."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix

from commands.postgres import Engine
from projections.building import BuildLease
from projections.wakeup import REBUILD_JOB, QueueSettings, open_queue
from workers import rebuilds
from workers.rebuilds import Forlorn, find_killed

NOTE = in_progress_key_prefix + REBUILD_JOB


@pytest.fixture
async def context(engine: Engine, queue_url: str) -> AsyncIterator[dict[str, Any]]:
    """A rebuilder's context, in a queue where the job is noted as running."""
    queue: ArqRedis = await open_queue(QueueSettings(queue_url))
    await queue.set(NOTE, b"1")
    yield {"engine": engine, "redis": queue, "tasks": {}, "forlorn": Forlorn()}
    await queue.aclose()


async def looks_twice(context: dict[str, Any]) -> bool:
    """Whether the job is still noted as running after two looks; arq gives each of them a copy of the context."""
    for _ in range(2):
        await find_killed(dict(context))
    return bool(await context["redis"].exists(NOTE))


async def test_one_that_nobody_runs_is_let_go(context: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """But not before it has been so for a while: it may just have begun."""
    assert await looks_twice(context)
    monkeypatch.setattr(rebuilds, "FORLORN_S", 0.0)
    assert not await looks_twice(context)


async def test_one_that_runs_here_or_elsewhere_is_left_alone(
    context: dict[str, Any], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, arq says; elsewhere, the lease does. The time before does not count."""
    await find_killed(dict(context))
    monkeypatch.setattr(rebuilds, "FORLORN_S", 0.0)
    context["tasks"][REBUILD_JOB] = object()
    assert await looks_twice(context)
    assert context["forlorn"].since is None
    context["tasks"].clear()
    async with BuildLease(engine):
        assert await looks_twice(context)
        assert context["forlorn"].since is None
    assert not await looks_twice(context)
