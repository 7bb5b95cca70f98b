"""The health of a worker or a rebuilder by what it knows of itself."""

import httpx
from prometheus_client import CollectorRegistry

from projections.metrics.server import HANGS_AFTER_S, ProcessHealth
from tests.support.clock import Clock
from tests.support.servers import free_port
from workers.metrics import WORKER, OwnMetrics, codes_of


def test_process_begins_as_starting() -> None:
    assert OwnMetrics(CollectorRegistry()).health() == ProcessHealth(ready=False, degraded=["starting"])


def test_process_with_an_outage_is_not_ready_and_a_paused_one_is() -> None:
    found, metrics = [None, "paused"], OwnMetrics(CollectorRegistry())
    metrics.use(lambda: codes_of(*found), lambda _: None)
    assert metrics.health() == ProcessHealth(ready=True, degraded=["paused"])
    found[0] = "redis_unreachable"
    assert metrics.health() == ProcessHealth(ready=False, degraded=["paused", "redis_unreachable"])


def test_process_whose_event_loop_has_not_run_for_long_is_not_alive() -> None:
    clock = Clock()
    metrics = OwnMetrics(CollectorRegistry(), clock)
    metrics.use(list, lambda _: None)
    clock.time += HANGS_AFTER_S - 1
    assert metrics.health() == ProcessHealth(ready=True, degraded=[])
    clock.time += 1
    assert metrics.health() == ProcessHealth(ready=False, degraded=[], alive=False)


async def test_process_that_hangs_shows_that_it_is_not_ready() -> None:
    """The scrapes are in the event loop's own thread, so nothing is published meanwhile."""
    clock, address = Clock(), f"127.0.0.1:{free_port()}"
    metrics = OwnMetrics(WORKER, clock)
    metrics.use(list, lambda _: None)
    async with metrics.served(address):
        for hangs, ready in ((0.0, "1.0"), (HANGS_AFTER_S, "0.0")):
            clock.time += hangs
            text = httpx.get(f"http://{address}/metrics", trust_env=False).text  # noqa: ASYNC210
            assert f"\nfollows_process_ready {ready}\n" in text
