"""Running an import: lines into batches, batches into the log while the next is read, outcomes into a tally."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, NamedTuple, TypeVar

import click

from commands.bulk import BATCH, BadLine, FollowRow, Outcome
from commands.bulk_users import UserRow

# Enough to see what is wrong with a file; the rest is counted.
BAD_SHOWN_MAX: Final = 20

Row = TypeVar("Row", FollowRow, UserRow)
T = TypeVar("T")


class Batch(NamedTuple, Generic[T]):
    """Consecutive lines of a file; ``error`` when the file cannot be read any further."""

    rows: list[T]
    bad: list[BadLine]
    error: Exception | None = None


def _batches(found: Iterator[Row | BadLine], strict: bool) -> Iterator[Batch[Row]]:
    batch: Batch[Row] = Batch([], [])
    try:
        for row in found:
            if isinstance(row, BadLine):
                batch.bad.append(row)
                if strict:
                    break
            else:
                batch.rows.append(row)
            if len(batch.rows) + len(batch.bad) >= BATCH:
                yield batch
                batch = Batch([], [])
    except Exception as error:  # what was read until then still goes in
        batch = batch._replace(error=error)
    yield batch


def outcomes(found: Iterator[Row | BadLine], append: Callable[[list[Row]], Outcome], strict: bool) -> Iterator[Outcome]:
    """Append batch by batch; while PostgreSQL works on one, the next is read. Raises what cut the file short."""

    def add(batch: Batch[Row]) -> Outcome:
        outcome: Outcome = append(batch.rows)
        bad = sorted([*outcome.bad, *batch.bad])
        return outcome._replace(bad=bad[:1] if strict else bad)

    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: Future[Outcome] | None = None
        for batch in _batches(found, strict):
            if waiting is not None:
                done: Outcome = waiting.result()
                yield done
                if strict and done.bad:
                    return
            waiting = pool.submit(add, batch)
        if waiting is not None:
            yield waiting.result()
    if batch.error is not None:
        raise batch.error


class Tally:
    """What became of the lines so far."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.read = self.added = self.changed = self.unchanged = self.bad = 0
        self.position: int | None = None
        self.last_bad: BadLine | None = None

    def take(self, outcome: Outcome, say: Callable[[str], None]) -> None:
        """Add a batch's outcome; ``say`` gets its bad lines, as far as they are shown."""
        self.added += outcome.added
        self.changed += outcome.changed
        self.unchanged += outcome.unchanged
        self.position = outcome.position or self.position
        for line in outcome.bad:
            if self.bad < BAD_SHOWN_MAX:
                say(f"line {line.line}: {line.reason}")
            elif self.bad == BAD_SHOWN_MAX:
                say("more bad lines are counted, not shown")
            self.bad += 1
            self.last_bad = line
        self.read = self.added + self.changed + self.unchanged + self.bad

    def summary(self, seconds: float) -> str:
        """One line on everything."""
        changed = f"{self.changed:,} changed, {self.unchanged:,} the same" if self.unit == "users" else ""
        rest = changed or f"{self.unchanged:,} already there"
        rate = f"{seconds:.1f} s ({self.read / seconds:,.0f}/s)"
        return f"read {self.read:,} {self.unit} in {rate}: {self.added:,} added, {rest}, {self.bad:,} bad"

    def judge(self, file: str, strict: bool) -> None:
        """Raise ClickException where the exit code must not be 0."""
        if strict and self.last_bad is not None:
            stopped = f"stopped at line {self.last_bad.line} because of --strict"
            raise click.ClickException(f"{stopped}; what was added before it stays")
        if self.bad and self.bad == self.read:
            name = "standard input" if file == "-" else file
            raise click.ClickException(f"no line of {name} could be used")
