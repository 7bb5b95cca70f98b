"""The SQL function for times in microseconds."""

from typing import Any

import psycopg
import pytest

from tests.support.log_writes import rows

Sql = psycopg.Connection[Any]


@pytest.mark.parametrize("time", [0, 1, 1_600_000_000_123_456, 2**52 - 1])
def test_microseconds_are_exact(sql: Sql, time: int) -> None:
    query = "SELECT microseconds(timestamptz 'epoch' + %s * interval '1 microsecond')"
    assert rows(sql, query, [time]) == [(time,)]


def test_microseconds_of_null_are_null(sql: Sql) -> None:
    assert rows(sql, "SELECT microseconds(NULL)") == [(None,)]


def test_microseconds_are_inlined(sql: Sql) -> None:
    """A call per row would cost more than the whole read of an event."""
    plan = str(rows(sql, "EXPLAIN (VERBOSE) SELECT microseconds(recorded_at) FROM events WHERE position > 5"))
    assert "EXTRACT(epoch FROM recorded_at)" in plan and "microseconds(" not in plan
