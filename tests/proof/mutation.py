"""Part 8: each guard is removed in turn from a copy of the checkout, and some test of `make test` must fail."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.proof.mutants import APPLY, MUTANTS, TESTS, Mutant
from tests.proof.parts import Counts, PartContext

TITLE: Final = "8 mutation"
ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("commands", "projections", "queries", "workers", "api", "cli", "tests")
FILES: Final = ("pyproject.toml", "Procfile", "README.md")
# Without its guard a loop may run for ever, and a timeout counts as a failing test. So that a busy machine is not taken
# for such a loop, the timeout is at least this and a multiple of what the tests take without a change.
TESTS_TIMEOUT_MIN_S: Final = 240.0
TIMEOUT_FACTOR: Final = 5
STOP_TIMEOUT_S: Final = 30.0
FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
HANGS: Final = "it runs for ever"


def run(context: PartContext) -> Counts:
    """Remove every guard, after a run without a change, which must pass; in the short form one of apply.lua's."""
    counts = Counts()
    for mutant in MUTANTS:
        found = (ROOT / mutant.file).read_text().count(mutant.old)
        counts.expect(found == 1, f"{mutant.file}, {mutant.guard}: the text to remove is there {found} times")
    if counts.wrong:
        return counts
    copy = _copy(context.folder / "copy")
    chosen: Sequence[Mutant] = MUTANTS
    timeouts_s = dict.fromkeys(TESTS, TESTS_TIMEOUT_MIN_S)
    if context.scale == "short":
        chosen = [context.rng("mutation").choice([mutant for mutant in MUTANTS if mutant.file == APPLY])]
    else:
        for file, tests in TESTS.items():
            began = time.monotonic()
            counts.expect(
                not _first_failure(copy, tests, TIMEOUT_FACTOR * TESTS_TIMEOUT_MIN_S),
                f"tests of {file} fail without any change",
            )
            timeouts_s[file] = max(TESTS_TIMEOUT_MIN_S, TIMEOUT_FACTOR * (time.monotonic() - began))
            counts.add("runs without a change, which must pass")
        if counts.wrong:
            return counts
    table = ["| file | guard removed | noticed by |", "|---|---|---|"]
    for mutant in chosen:
        failure = _failure_without(mutant, copy, timeouts_s[mutant.file])
        counts.add("guards removed")
        counts.expect(failure, f"{mutant.file}: no test fails without the guard: {mutant.guard}")
        table.append(f"| {mutant.file} | {mutant.guard} | {failure or 'NO TEST'} |")
        if context.scale == "long":
            print(table[-1], flush=True)
    counts.page = "\n".join(table)
    return counts


def _copy(folder: Path) -> Path:
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


def _failure_without(mutant: Mutant, copy: Path, timeout_s: float) -> str:
    """Return the first test that fails without the guard, or an empty text."""
    place = copy / mutant.file
    whole = place.read_text()
    place.write_text(whole.replace(mutant.old, mutant.new))
    try:
        return _first_failure(copy, TESTS[mutant.file], timeout_s)
    finally:
        place.write_text(whole)


def _first_failure(copy: Path, tests: Sequence[str], timeout_s: float) -> str:
    words = ["-q", "-x", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0", "--no-header", *tests]
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "pytest", *words],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that its servers are stopped
        try:
            process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return HANGS
    if process.returncode == 0:
        return ""
    failed = FAILED.search(output)
    assert process.returncode == 1 and failed, output[-2_000:]
    return failed.group(1)
