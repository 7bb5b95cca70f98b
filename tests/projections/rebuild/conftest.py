"""What tests of rebuilds open."""

from collections.abc import AsyncIterator

import pytest

from projections.signals.job_queue import QueueSettings
from projections.signals.wakeups import Wakeup
from tests.support.queues import queue_of


@pytest.fixture
def queue(queue_url: str) -> QueueSettings:
    """The address of the wake-ups."""
    return queue_of(queue_url)


@pytest.fixture
async def wakeup(queue: QueueSettings) -> AsyncIterator[Wakeup]:
    """The connection over which a switch is announced."""
    opened = Wakeup(queue)
    yield opened
    await opened.close()
