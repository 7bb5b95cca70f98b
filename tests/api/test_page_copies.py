"""Copies of pages change no byte of any answer, whatever happens between two reads."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis

from api import tail
from tests.support.copies_machine import CopiesMachine, CopiesWorld
from tests.support.in_process import in_process
from tests.support.queues import queue_of

# Of these counts each process would show its own.
NO_LIMITS = {"FOLLOWS_RATE_LIMIT": "0", "FOLLOWS_RATE_LIMIT_KRAKEN": "0", "FOLLOWS_RATE_LIMIT_ADDRESS": "0"}


@pytest.fixture(scope="module")
def running(module_settings: dict[str, str], keys: Path) -> Iterator[tuple[asyncio.Runner, CopiesWorld]]:
    """Two web processes on the same servers, and the event loop that runs them during each step."""
    own = {**module_settings, **NO_LIMITS}
    with (
        asyncio.Runner() as runner,
        psycopg.connect(own["DATABASE_URL"], autocommit=True) as sql,
        Redis.from_url(own["REDIS_URL"]) as raw_redis,
    ):
        stack = AsyncExitStack()
        try:
            on, off = [runner.run(stack.enter_async_context(in_process(own, keys, with_loop=False))) for _ in range(2)]
            world = CopiesWorld(on, off, queue_of(own["QUEUE_URL"]), raw_redis, sql)
            runner.run(world.begin())
            yield runner, world
        finally:
            runner.run(stack.aclose())


def test_random_reads_get_same_bytes_with_copies_and_without(
    running: tuple[asyncio.Runner, CopiesWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "LOOK_INTERVAL_S", 0.01)  # a read that asks for a position waits for a look
    CopiesMachine.runner, CopiesMachine.world = running
    run_state_machine_as_test(
        CopiesMachine,
        settings=settings(
            max_examples=5,
            stateful_step_count=20,
            deadline=None,
            # No shrinking: reducing a failing run takes minutes on real servers.
            phases=[Phase.generate],
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
    assert running[1].confirmed > 50
