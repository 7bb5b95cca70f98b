"""The proof's results as a Markdown table, and the page that keeps those of a long run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.proof.trial import WRONG_SHOWN, Counts

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "proof.md"
HEAD: Final = ("part", "what was tried", "how often", "seed", "lost or wrong", "seconds")


@dataclass(frozen=True)
class Result:
    """What one part has found."""

    title: str
    seed: int
    counts: Counts
    seconds: float


def table(results: Iterable[Result]) -> str:
    """One row for each thing that was tried; what a part has as a whole stands in its first."""
    lines = [_row(HEAD), "|---|---|--:|--:|--:|--:|"]
    for result in results:
        whole = (str(result.seed), str(len(result.counts.wrong)), f"{result.seconds:.0f}")
        for index, (what, number) in enumerate(result.counts.tried.items() or [("nothing", 0)]):
            first = index == 0
            lines.append(_row((result.title if first else "", what, f"{number:,}", *(whole if first else ("",) * 3))))
    return "\n".join(lines)


def wrongs(results: Iterable[Result]) -> list[str]:
    """The first complaints of each part."""
    return [f"{result.title}: {wrong}" for result in results for wrong in result.counts.wrong[:WRONG_SHOWN]]


def write(results: Sequence[Result], page: Path = PAGE) -> None:
    """Keep the results of a long run of all parts."""
    complaints = "\n".join(f"- {wrong}" for wrong in wrongs(results)) or "Nothing was lost and nothing was wrong."
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    pages = "".join(f"\n## {result.title}\n\n{result.counts.page}\n" for result in results if result.counts.page)
    page.parent.mkdir(exist_ok=True)
    page.write_text(
        f"# The latest long run of `make proof`\n\n{datetime.now(UTC):%Y-%m-%d}, {machine}. Written by the run itself; "
        f'`make proof ARGS="--long PART --seed N"` does a part again.\n\n{table(results)}\n\n{complaints}\n{pages}'
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
