"""What a part of the proof is given and what it gives back, and the list of the parts.

A part is a module of this package with a ``TITLE`` and one function ``run(trial: Trial) -> Counts``. It draws all its
chances from ``trial.chance``, so that the same seed does the same again.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from tests.servers import Servers, real_servers

Scale = Literal["short", "long"]

# In the order in which they run. A new part is a module here and a name in this list.
PARTS: Final[tuple[str, ...]] = (
    "order",
    "kill_points",
    "kills",
    "zombies",
    "losses",
    "machine",
    "simulation",
    "mutation",
    "hostile",
    "soak",
)
WRONG_SHOWN: Final = 20


@dataclass(frozen=True)
class Trial:
    """One run of one part. ``folder`` is empty and its own; ``shared`` are servers that it may use beside others."""

    seed: int
    scale: Scale
    folder: Path
    shared: Servers | None = None

    def times(self, short: int, long: int) -> int:
        """How often, by the length of this run."""
        return long if self.scale == "long" else short

    def chance(self, *of: object) -> random.Random:
        """Chances of this seed, always the same for the same ``of``."""
        return random.Random(" ".join(map(str, (self.seed, *of))))

    @contextmanager
    def servers(self) -> Iterator[Servers]:
        """PostgreSQL and Valkey: the shared ones, or some of our own for the length of the block."""
        if self.shared is not None:
            yield self.shared
        else:
            with real_servers(self.folder / "servers") as own:
                yield own

    def again(self, part: str) -> str:
        """The command that does this run again."""
        return f"python -m tests.proof {part} --{self.scale} --seed {self.seed}"


@dataclass
class Counts:
    """How much was tried of what, and what was lost or wrong, each with the seed that shows it again."""

    tried: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    # What the page shows below the table.
    page: str = ""

    def add(self, what: str, number: int = 1) -> None:
        """So much more has been tried."""
        self.tried[what] = self.tried.get(what, 0) + number

    def expect(self, holds: object, complaint: str) -> None:
        """Note a complaint unless it holds."""
        if not holds:
            self.wrong.append(complaint)

    def __str__(self) -> str:
        """One line."""
        tried = ", ".join(f"{number:,} {what}" for what, number in self.tried.items())
        return f"{tried or 'nothing was tried'}; lost or wrong: {len(self.wrong)}"


def part(name: str) -> Any:
    """The module of a part."""
    return import_module(f"tests.proof.{name}")


def attempt(name: str, trial: Trial) -> Counts:
    """Run a part; an exception that comes out of it is something wrong, too, and so is having tried nothing.

    Every complaint ends with the command that shows it again.
    """
    try:
        counts: Counts = part(name).run(trial)
    except Exception as error:
        traceback.print_exc()
        return Counts(wrong=[f"{type(error).__name__}: {error}; again: {trial.again(name)}"])
    counts.expect(counts.tried, f"{name} has tried nothing")
    again = trial.again(name)
    counts.wrong = [
        wrong if "again: " in wrong or again in wrong else f"{wrong}; again: {again}" for wrong in counts.wrong
    ]
    return counts
