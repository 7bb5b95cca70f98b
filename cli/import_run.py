"""An import in batches: one is appended to the log while the next is read; a tally counts the outcomes."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, NamedTuple, TypeVar

import click

from commands.bulk_follows import IMPORT_BATCH, BadLine, ImportedFollow, ImportResult
from commands.bulk_users import ImportedUser

# Enough to see what is wrong with a file; further bad lines are only counted.
BAD_SHOWN_MAX: Final = 20

_Row = TypeVar("_Row", ImportedFollow, ImportedUser)
_T = TypeVar("_T")


class LineBatch(NamedTuple, Generic[_T]):
    """Consecutive lines of a file; ``error`` is set when the file cannot be read any further."""

    rows: list[_T]
    bad: list[BadLine]
    error: Exception | None = None


def _batches(found: Iterator[_Row | BadLine], strict: bool, size: int) -> Iterator[LineBatch[_Row]]:
    batch: LineBatch[_Row] = LineBatch([], [])
    try:
        for row in found:
            if isinstance(row, BadLine):
                batch.bad.append(row)
                if strict:
                    break
            else:
                batch.rows.append(row)
            if len(batch.rows) + len(batch.bad) >= size:
                yield batch
                batch = LineBatch([], [])
    except Exception as error:  # lines read before the error are imported
        batch = batch._replace(error=error)
    yield batch


def outcomes(
    found: Iterator[_Row | BadLine],
    append: Callable[[list[_Row]], ImportResult],
    strict: bool,
    batch_size: int = IMPORT_BATCH,
) -> Iterator[ImportResult]:
    """Append batch by batch, and read the next one while PostgreSQL works. Raises what ended the reading early."""

    def add(batch: LineBatch[_Row]) -> ImportResult:
        outcome: ImportResult = append(batch.rows)
        bad = sorted([*outcome.bad, *batch.bad])
        return outcome._replace(bad=bad[:1] if strict else bad)

    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: Future[ImportResult] | None = None
        for batch in _batches(found, strict, batch_size):
            if waiting is not None:
                done: ImportResult = waiting.result()
                yield done
                if strict and done.bad:
                    return
            waiting = pool.submit(add, batch)
        if waiting is not None:
            yield waiting.result()
    if batch.error is not None:
        raise batch.error


class Tally:
    """Counts of the lines imported so far."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.read = self.added = self.changed = self.unchanged = self.bad = 0
        self.position: int | None = None
        self.last_bad: BadLine | None = None

    def take(self, outcome: ImportResult, say: Callable[[str], None]) -> None:
        """Add a batch's outcome, and call ``say`` with each bad line until ``BAD_SHOWN_MAX`` have been shown."""
        self.added += outcome.added
        self.changed += outcome.changed
        self.unchanged += outcome.unchanged
        self.position = outcome.position or self.position
        for line in outcome.bad:
            if self.bad < BAD_SHOWN_MAX:
                say(f"line {line.line}: {line.reason}")
            elif self.bad == BAD_SHOWN_MAX:
                say("further bad lines are counted, not shown")
            self.bad += 1
            self.last_bad = line
        self.read = self.added + self.changed + self.unchanged + self.bad

    def summary(self, seconds: float) -> str:
        """Return all counts in one line."""
        changed = f"{self.changed:,} changed, {self.unchanged:,} the same" if self.unit == "users" else ""
        rest = changed or f"{self.unchanged:,} already there"
        rate = f"{seconds:.1f} s ({self.read / seconds:,.0f}/s)"
        return f"read {self.read:,} {self.unit} in {rate}: {self.added:,} added, {rest}, {self.bad:,} bad"

    def judge(self, file: str, strict: bool) -> None:
        """Raise ClickException when no line was usable, or ``strict`` and a line was bad."""
        if strict and self.last_bad is not None:
            stopped = f"stopped at line {self.last_bad.line} because of --strict"
            raise click.ClickException(f"{stopped}; what was added before it stays")
        if self.bad and self.bad == self.read:
            name = "standard input" if file == "-" else file
            raise click.ClickException(f"no line of {name} could be used")
