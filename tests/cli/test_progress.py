"""The meter of long jobs: a bar on a terminal, plain lines elsewhere, nothing left behind by either."""

import io

from rich.console import Console

from cli.progress import PLAIN_EVERY_S, Meter


class Clock:
    """A time that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(total: int | None, *steps: tuple[float, int, int]) -> list[str]:
    """The lines after steps of (seconds, done, count)."""
    clock, out = Clock(), io.StringIO()
    with Meter("Importing", "follows", total, console=Console(file=out, width=40), clock=clock) as meter:
        for seconds, done, count in steps:
            clock.now += seconds
            meter.reached(done, count)
    return out.getvalue().splitlines()


def test_a_plain_line_now_and_then() -> None:
    """With count, rate, share and time left; one line however narrow the output, and none too soon."""
    soon = PLAIN_EVERY_S / 2
    assert plain(1_000, (soon, 100, 500), (soon, 250, 1_500), (soon, 300, 2_000), (200, 999, 9_000)) == [
        "Importing: 1,500 follows, 300/s, 25 %, 0:15 left",
        "Importing: 9,000 follows, 43/s, 99 %, 0:00 left",
    ]


def test_without_a_total_there_is_no_time_left() -> None:
    """Of a pipe nobody knows how long it is."""
    assert plain(None, (10, 5_000, 1_000)) == ["Importing: 1,000 follows, 100/s"]
    assert plain(1_000, (10, 0, 0)) == ["Importing: 0 follows, 0/s"]


def test_a_total_that_grows() -> None:
    """A log that is followed while others write to it."""
    clock, out = Clock(), io.StringIO()
    with Meter("rebuild", "events", None, console=Console(file=out), clock=clock) as meter:
        for total in (1_000, 4_000):
            clock.now += 10
            meter.total(total)
            meter.reached(500, 500)
    assert [line.rpartition("/s, ")[2] for line in out.getvalue().splitlines()] == [
        "50 %, 0:10 left",
        "12 %, 2:20 left",
    ]


def test_a_long_time_left_is_in_minutes() -> None:
    """Hours, too."""
    assert plain(1_000, (60, 10, 1)) == ["Importing: 1 follows, 0/s, 1 %, 99:00 left"]


def test_a_bar_on_a_terminal() -> None:
    """It shows title, share and rate, lets lines pass above, and is gone at the end."""
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, legacy_windows=False, _environ={"TERM": "xterm"})
    with Meter("Importing", "follows", 1_000, console=console, clock=clock) as meter:
        clock.now += 10
        meter.reached(500, 20_000)
        meter.say("line 17: [bold]bad[/bold]")
    shown = out.getvalue()
    assert "line 17: [bold]bad[/bold]\n" in shown
    for words in ("Importing", " 50%", "20,000 follows, 2,000/s"):
        assert words in shown
    assert shown.endswith("\x1b[1A\x1b[2K")


def test_seconds_are_never_zero() -> None:
    """Whoever divides by them need not look."""
    assert Meter("x", "y", None, console=Console(file=io.StringIO()), clock=Clock()).seconds > 0
