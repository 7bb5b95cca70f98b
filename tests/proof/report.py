"""The proof's results as a Markdown table, and docs/proof.md with the latest long run of each part."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tests.proof.parts import COMPLAINTS_SHOWN_MAX, PARTS, Counts

ROOT: Final = Path(__file__).resolve().parents[2]
# One JSON file for each part's latest long run; docs/proof.md is written from them.
RESULTS: Final = ROOT / "docs" / "proof"
HEAD: Final = ("part", "what was tried", "how often", "seed", "lost or wrong", "seconds")


@dataclass(frozen=True)
class Result:
    """The counts of one run of a part."""

    title: str
    seed: int
    counts: Counts
    seconds: float


def table(results: Iterable[Result]) -> str:
    """Return a table with a row for each thing tried; seed, complaints and seconds are in a part's first row."""
    lines = [_row(HEAD), "|---|---|--:|--:|--:|--:|"]
    for result in results:
        whole = (str(result.seed), str(len(result.counts.wrong)), f"{result.seconds:.0f}")
        for index, (what, number) in enumerate(result.counts.tried.items() or [("nothing", 0)]):
            first = index == 0
            lines.append(_row((result.title if first else "", what, f"{number:,}", *(whole if first else ("",) * 3))))
    return "\n".join(lines)


def complaints(results: Iterable[Result]) -> list[str]:
    """Return the first complaints of each part."""
    return [f"{result.title}: {wrong}" for result in results for wrong in result.counts.wrong[:COMPLAINTS_SHOWN_MAX]]


class SavedRun(msgspec.Struct, frozen=True):
    """A long run of one part, with its commit, day and machine."""

    result: Result
    commit: str
    day: str
    machine: str


def save(name: str, result: Result, of: str, folder: Path = RESULTS) -> None:
    """Save a part's long run, begun at the commit ``of``, over its last one, and write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    saved = SavedRun(result, of, f"{datetime.now(UTC):%Y-%m-%d}", machine)
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(saved)) + b"\n")
    write_page(folder)


def write_page(folder: Path = RESULTS) -> None:
    """Write ``docs/proof.md`` from the saved runs."""
    files = {name: folder / f"{name}.json" for name in PARTS}
    found = {
        name: msgspec.json.decode(file.read_bytes(), type=SavedRun) for name, file in files.items() if file.exists()
    }
    results = [saved.result for saved in found.values()]
    found_wrong = "\n".join(f"- {wrong}" for wrong in complaints(results)) or "Nothing was lost and nothing was wrong."
    runs = "\n".join(
        f"- `{name}`: {saved.day}, commit {saved.commit}, {saved.machine}, `--seed {saved.result.seed}`"
        for name, saved in found.items()
    )
    missing = ", ".join(f"`{name}`" for name in PARTS if name not in found)
    pages = "".join(f"\n## {result.title}\n\n{result.counts.page}\n" for result in results if result.counts.page)
    folder.with_suffix(".md").write_text(
        "# The latest long run of each part of `make proof`\n\nWritten by the runs; what each part attacks is said in "
        '`tests/proof/README.md`. `make proof ARGS="--long PART --seed N"` repeats a part. Words and names are those '
        f"of the commit that a part ran at.\n\n{table(results)}\n\n{found_wrong}\n\n{runs}\n"
        + (f"\nNot run at full length yet: {missing}.\n" if missing else "")
        + pages
    )


def commit() -> str:
    """Return the commit of the checkout, followed by "and changes" if code differs from it."""
    try:
        return _git("rev-parse", "--short", "HEAD") + (
            " and changes" if _git("status", "--porcelain", "--", ".", ":!docs") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
