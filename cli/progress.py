"""The progress of a long job: a bar with rate and time left on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Often enough to show that the job is alive, rarely enough for a log file.
LINE_EVERY_S: Final = 5.0


class Meter:
    """A job's progress: ``done`` of ``total`` in any measure (None: unknown), and a count of ``unit``."""

    def __init__(
        self,
        title: str,
        unit: str,
        total: int | None,
        *,
        console: Console | None = None,
        line_every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._unit, self._total, self._clock = title, unit, total, clock
        self._line_every_s = line_every_s
        self._console = console or Console(stderr=True, highlight=False)
        self._started = self._said = clock()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "Meter":
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
            counts = TextColumn("{task.fields[counts]}")
            self._bar = Progress(*columns, counts, TimeRemainingColumn(), console=self._console, transient=True)
            self._task = self._bar.add_task(self._title, total=self._total, counts="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Return the time since the job began; never 0."""
        return max(self._clock() - self._started, 1e-6)

    def total(self, total: int | None) -> None:
        """Change the total."""
        self._total = total

    def reached(self, done: int, count: int) -> None:
        """Show that ``done`` of the total is done, and ``count`` units."""
        counts = f"{count:,} {self._unit}, {count / self.seconds:,.0f}/s"
        if self._bar is not None:
            self._bar.update(self._task, total=self._total, completed=done, counts=counts)
        elif self._clock() - self._said >= self._line_every_s:
            self._said = self._clock()
            self.say(f"{self._title}: {counts}{self._left(done)}")

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self, done: int) -> str:
        if not self._total or not done:
            return ""
        left_s = self.seconds * max(self._total - done, 0) / done
        return f", {100 * done // self._total} %, {int(left_s) // 60}:{int(left_s) % 60:02} left"
