"""The lag in seconds: by the dates of events where they can be right, else by the process' own clock."""

from projections.keys import View
from projections.views.lag_clock import LagClock
from tests.support.clock import Clock

VIEW = View(1, 8)
HOURS_US = 7_200_000_000


def test_lag_is_age_of_the_first_missing_event() -> None:
    lag = LagClock(Clock())
    assert lag.lag_s(VIEW, 5, 5, None) == 0.0
    assert LagClock(Clock()).lag_s(VIEW, 5, 6, 1_500_000) == 1.5


def test_lag_is_never_zero_or_negative_while_the_log_is_ahead() -> None:
    """Postgres' clock was set back behind the events: at first the lag is not known, then at least so much."""
    clock = Clock()
    lag = LagClock(clock)
    assert lag.lag_s(VIEW, 5, 6, -HOURS_US) is None
    clock.time += 30
    assert lag.lag_s(VIEW, 5, 7, -HOURS_US) == 30.0
    assert lag.lag_s(VIEW, 6, 7, -HOURS_US) is None, "it has moved"
    assert lag.lag_s(View(2, 8), 6, 7, 0) is None, "another view"


def test_lag_is_at_most_the_time_since_the_view_was_level() -> None:
    """Postgres' clock was set forward after an event that the view does not show yet."""
    clock = Clock()
    lag = LagClock(clock)
    assert lag.lag_s(VIEW, 5, 5, None) == 0.0
    clock.time += 2
    assert lag.lag_s(VIEW, 5, 6, HOURS_US) == 2.0
    clock.time += 1
    assert lag.lag_s(VIEW, 6, 9, HOURS_US) == 3.0
