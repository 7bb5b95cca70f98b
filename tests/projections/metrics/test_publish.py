"""What parts of a process count reaches the metrics: each value once, in the bucket that it belongs to."""

import asyncio
import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from commands.distribution import SECONDS_BOUNDS, BatchDistributions, Distribution
from projections.metrics.publish import DistributionHistogram, Totals, publish_each_second, set_gauge

VALUES = st.one_of(st.sampled_from([0.0, *SECONDS_BOUNDS, 11.0]), st.floats(0, 20))


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Return (name, label ``le``) -> value."""
    found = (sample for metric in registry.collect() for sample in metric.samples)
    wanted = ("_bucket", "_sum", "_count")
    return {(one.name, one.labels.get("le", "")): one.value for one in found if one.name.endswith(wanted)}


@given(st.lists(st.lists(VALUES)))
def test_distribution_is_published_as_the_library_observes_it(turns: Iterable[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    published = DistributionHistogram("x_seconds", "x", buckets=SECONDS_BOUNDS, registry=ours)
    observed = Histogram("x_seconds", "x", buckets=SECONDS_BOUNDS, registry=theirs)
    counted = Distribution()
    for values in turns:
        for value in values:
            counted.note(value)
            observed.observe(value)
        published.add(counted)
    found, expected = samples(ours), samples(theirs)
    assert found.keys() == expected.keys() and all(math.isclose(found[name], expected[name]) for name in found)


def test_batch_is_counted_also_when_it_fails() -> None:
    batches = BatchDistributions()
    with pytest.raises(ZeroDivisionError), batches.noting(7):
        _ = 1 / 0
    assert batches.sizes.take() == ([0, 0, 0, 1, 0, 0, 0, 0, 0, 0], 7.0)
    counts, seconds = batches.durations.take()
    assert sum(counts) == 1 and 0 < seconds < 10


def test_counter_goes_on_when_the_part_was_replaced() -> None:
    registry = CollectorRegistry()
    counter = Counter("x", "x", ["kind"], registry=registry)
    totals = Totals()
    for total, expected in ((5, 5), (5, 5), (8, 8), (2, 10), (3, 11)):
        totals.add(counter, total, "a")
        assert registry.get_sample_value("x_total", {"kind": "a"}) == expected


def test_value_that_is_not_known_is_nan() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("x", "x", registry=registry)
    set_gauge(gauge, 3)
    set_gauge(gauge, None)
    assert math.isnan(registry.get_sample_value("x") or 0)


async def test_metrics_are_published_after_a_failure_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def publish() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError

    task = asyncio.create_task(publish_each_second(publish))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert calls == 2 and [record.levelname for record in caplog.records] == ["ERROR"]
