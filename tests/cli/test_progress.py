"""The progress of long jobs: a bar on a terminal, plain lines elsewhere."""

import io

from rich.console import Console

from cli.progress import LINE_EVERY_S, Meter
from tests.support.clock import Clock


def plain(total: int | None, *steps: tuple[float, int, int]) -> list[str]:
    """Return the lines printed after steps of (seconds, done, count)."""
    clock, out = Clock(), io.StringIO()
    with Meter("Importing", "follows", total, console=Console(file=out, width=40), clock=clock) as meter:
        for seconds, done, count in steps:
            clock.time += seconds
            meter.reached(done, count)
    return out.getvalue().splitlines()


def test_without_a_terminal_a_line_is_printed_every_few_seconds() -> None:
    """Each has count, rate, share and time left, and stays one line on a narrow output."""
    soon = LINE_EVERY_S / 2
    assert plain(1_000, (soon, 100, 500), (soon, 250, 1_500), (soon, 300, 2_000), (200, 999, 9_000)) == [
        "Importing: 1,500 follows, 300/s, 25 %, 0:15 left",
        "Importing: 9,000 follows, 43/s, 99 %, 0:00 left",
    ]


def test_unknown_total_shows_no_time_left() -> None:
    assert plain(None, (10, 5_000, 1_000)) == ["Importing: 1,000 follows, 100/s"]
    assert plain(1_000, (10, 0, 0)) == ["Importing: 0 follows, 0/s"]


def test_total_that_grows_changes_share_and_time_left() -> None:
    """As a log does that is followed while it is written."""
    clock, out = Clock(), io.StringIO()
    with Meter("rebuild", "events", None, console=Console(file=out), clock=clock) as meter:
        for total in (1_000, 4_000):
            clock.time += 10
            meter.total(total)
            meter.reached(500, 500)
    assert [line.rpartition("/s, ")[2] for line in out.getvalue().splitlines()] == [
        "50 %, 0:10 left",
        "12 %, 2:20 left",
    ]


def test_time_left_of_more_than_an_hour_is_in_minutes() -> None:
    assert plain(1_000, (60, 10, 1)) == ["Importing: 1 follows, 0/s, 1 %, 99:00 left"]


def test_on_a_terminal_a_bar_is_shown_and_removed() -> None:
    """It shows title, share and rate, and printed lines appear above it."""
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, legacy_windows=False, _environ={"TERM": "xterm"})
    with Meter("Importing", "follows", 1_000, console=console, clock=clock) as meter:
        clock.time += 10
        meter.reached(500, 20_000)
        meter.say("line 17: [bold]bad[/bold]")
    shown = out.getvalue()
    assert "line 17: [bold]bad[/bold]\n" in shown
    for words in ("Importing", " 50%", "20,000 follows, 2,000/s"):
        assert words in shown
    assert shown.endswith("\x1b[1A\x1b[2K")


def test_seconds_are_never_zero() -> None:
    assert Meter("x", "y", None, console=Console(file=io.StringIO()), clock=Clock()).seconds > 0
