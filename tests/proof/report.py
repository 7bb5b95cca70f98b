"""The proof's results as a Markdown table, and the page that keeps the latest long run of each part."""

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

from tests.proof.trial import PARTS, WRONG_SHOWN, Counts

ROOT: Final = Path(__file__).resolve().parents[2]
# One file for each part's latest long run, from which the page beside it is made.
KEPT: Final = ROOT / "docs" / "proof"
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


class Kept(msgspec.Struct, frozen=True):
    """A long run of one part, and of what, when and where it was."""

    result: Result
    commit: str
    day: str
    machine: str


def keep(name: str, result: Result, of: str, folder: Path = KEPT) -> None:
    """Keep the result of a part's long run, begun at the commit ``of``, in place of its last; write the page anew."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    kept = Kept(result, of, f"{datetime.now(UTC):%Y-%m-%d}", machine)
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
    write(folder)


def write(folder: Path = KEPT) -> None:
    """Write the page of what is kept: ``docs/proof.md``."""
    files = {name: folder / f"{name}.json" for name in PARTS}
    found = {name: msgspec.json.decode(file.read_bytes(), type=Kept) for name, file in files.items() if file.exists()}
    results = [kept.result for kept in found.values()]
    complaints = "\n".join(f"- {wrong}" for wrong in wrongs(results)) or "Nothing was lost and nothing was wrong."
    runs = "\n".join(
        f"- `{name}`: {kept.day}, commit {kept.commit}, {kept.machine}, `--seed {kept.result.seed}`"
        for name, kept in found.items()
    )
    missing = ", ".join(f"`{name}`" for name in PARTS if name not in found)
    pages = "".join(f"\n## {result.title}\n\n{result.counts.page}\n" for result in results if result.counts.page)
    folder.with_suffix(".md").write_text(
        "# The latest long run of each part of `make proof`\n\nWritten by the runs themselves; "
        f'`make proof ARGS="--long PART --seed N"` does a part again.\n\n{table(results)}\n\n{complaints}\n\n{runs}\n'
        + (f"\nNot run at full length yet: {missing}.\n" if missing else "")
        + pages
    )


def commit() -> str:
    """The commit of the checkout, with a word when its code has been changed since."""
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
