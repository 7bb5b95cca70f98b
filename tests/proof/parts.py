"""The list of the proof's parts, what a part is given, and the counts that it returns.

A part is a module of this package with a ``TITLE`` and a function ``run(context: PartContext) -> Counts``. It takes all
random choices from ``context.rng``, so that the same seed makes the same choices.
"""

from __future__ import annotations

import math
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from tests.support.servers import Servers, real_servers

Scale = Literal["short", "long"]

# In the order in which they run. To add a part, add a module here and its name to this list.
PARTS: Final[tuple[str, ...]] = (
    "order",
    "kill_points",
    "kills",
    "zombies",
    "losses",
    "outages",
    "machine",
    "simulation",
    "mutation",
    "hostile",
    "soak",
)
COMPLAINTS_SHOWN_MAX: Final = 20


@dataclass(frozen=True)
class PartContext:
    """One run of one part. ``folder`` is empty and belongs to the run; ``shared`` servers are used by others, too.

    A part that runs until its counts are reached ends after ``minutes`` in any case.
    """

    seed: int
    scale: Scale
    folder: Path
    shared: Servers | None = None
    minutes: float = math.inf

    def by_scale(self, short: int, long: int) -> int:
        """Return the first number in the short form of a part, the second in the long one."""
        return long if self.scale == "long" else short

    def rng(self, *of: object) -> random.Random:
        """Return a generator of this seed for one purpose; the same ``of`` gives the same numbers."""
        return random.Random(" ".join(map(str, (self.seed, *of))))

    @contextmanager
    def servers(self) -> Iterator[Servers]:
        """Yield PostgreSQL and Valkey: the shared ones, or new ones that stop with the block."""
        if self.shared is not None:
            yield self.shared
        else:
            with real_servers(self.folder / "servers") as own:
                yield own

    def replay_command(self, part: str) -> str:
        """Return the command that repeats this run."""
        return f"python -m tests.proof {part} --{self.scale} --seed {self.seed}"


@dataclass
class Counts:
    """How often each thing was tried, and what was lost or wrong."""

    tried: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    # Markdown for docs/proof.md, below the table.
    page: str = ""

    def add(self, what: str, number: int = 1) -> None:
        """Count something that was tried."""
        self.tried[what] = self.tried.get(what, 0) + number

    def expect(self, holds: object, complaint: str) -> None:
        """Record a complaint unless the condition holds."""
        if not holds:
            self.wrong.append(complaint)

    def __str__(self) -> str:
        """Return the counts in one line."""
        tried = ", ".join(f"{number:,} {what}" for what, number in self.tried.items())
        return f"{tried or 'nothing was tried'}; lost or wrong: {len(self.wrong)}"


def load_part(name: str) -> Any:
    """Import the module of a part."""
    return import_module(f"tests.proof.{name}")


def run_part(name: str, context: PartContext) -> Counts:
    """Run a part. An exception counts as something wrong, and so does a part that has tried nothing.

    Every complaint ends with the command that repeats it: the part's own, or that of the whole run.
    """
    try:
        counts: Counts = load_part(name).run(context)
    except Exception as error:
        traceback.print_exc()
        return Counts(wrong=[f"{type(error).__name__}: {error}; again: {context.replay_command(name)}"])
    counts.expect(counts.tried, f"{name} has tried nothing")
    again = context.replay_command(name)
    counts.wrong = [wrong if "again: " in wrong else f"{wrong}; again: {again}" for wrong in counts.wrong]
    return counts
