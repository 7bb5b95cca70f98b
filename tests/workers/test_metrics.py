"""The health of a worker or a rebuilder by what it knows of itself."""

from prometheus_client import CollectorRegistry

from projections.metrics.server import ProcessHealth
from tests.support.clock import Clock
from workers.metrics import HANGS_AFTER_S, OwnMetrics, codes_of


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
