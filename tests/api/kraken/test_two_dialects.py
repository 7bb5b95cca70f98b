"""Both dialects agree with one model, whatever the order of random steps through them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.in_process import InProcess, in_process
from tests.support.two_dialects import TwoDialects


@pytest.fixture(scope="module")
def running(module_settings: dict[str, str], keys: Path) -> Iterator[tuple[asyncio.Runner, InProcess]]:
    """The service, and the event loop that runs it during each step."""
    with asyncio.Runner() as runner:
        service = in_process(module_settings, keys)
        try:
            yield runner, runner.run(service.__aenter__())
        finally:
            runner.run(service.__aexit__(None, None, None))


def test_random_steps_in_both_dialects_agree_with_model(running: tuple[asyncio.Runner, InProcess]) -> None:
    TwoDialects.runner, TwoDialects.service = running
    run_state_machine_as_test(
        TwoDialects,
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            deadline=None,
            # No shrinking: reducing a failing run takes five minutes on real servers.
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
