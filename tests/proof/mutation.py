"""Part 8: each guard is removed in turn from a copy of the checkout, and some test of `make test` must fail.

The long form uses a copy for each core, and continues where a run of the same commit was stopped.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from tests.proof.finished import Finished
from tests.proof.mutants import APPLY, MUTANTS, TESTS, Mutant
from tests.proof.parts import Counts, PartContext

TITLE: Final = "8 mutation"
ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("commands", "projections", "queries", "workers", "api", "cli", "tests", "docs")
FILES: Final = ("pyproject.toml", "Procfile", "README.md")
# Without its guard a loop may run for ever, and a timeout counts as a failing test. So that a busy machine is not taken
# for such a loop, the timeout is at least this and a multiple of what the tests take without a change.
TESTS_TIMEOUT_MIN_S: Final = 240.0
TIMEOUT_FACTOR: Final = 2
UNCHANGED_TIMEOUT_S: Final = 1_200.0
STOP_TIMEOUT_S: Final = 30.0
# Python keeps compiled modules: without them pytest takes twice as long to start. A file is compiled again when its
# time of change differs, and each guard is away for seconds.
COMPILED: Final = {"PYTHONDONTWRITEBYTECODE": ""}
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
    if context.scale == "short":
        chosen = context.rng("mutation").choice([mutant for mutant in MUTANTS if mutant.file == APPLY])
        failure = _failure_without(chosen, _copy(context.folder / "copy"), TESTS_TIMEOUT_MIN_S)
        _count(counts, chosen, failure)
        return counts
    at_once = os.cpu_count() or 1
    with ThreadPoolExecutor(at_once) as threads:
        copies = SimpleQueue[Path]()
        for number in range(at_once):
            copies.put(_copy(context.folder / f"copy-{number}"))
        files = sorted({file for tests in TESTS.values() for file in tests})
        unchanged = Finished("mutation-unchanged", float)
        seconds = dict(zip(files, threads.map(partial(_seconds_unchanged, copies, unchanged), files), strict=True))
        for file, needed in seconds.items():
            counts.expect(needed is not None, f"{file} fails without any change")
            counts.add("test files without a change, which must pass")
        if counts.wrong:
            return counts
        timeouts_s = [_timeout_s(seconds[file] or 0 for file in TESTS[mutant.file]) for mutant in MUTANTS]
        table = ["| file | guard removed | noticed by |", "|---|---|---|"]
        finished = Finished("mutation", str)
        failures = threads.map(partial(_failure_in_some_copy, copies, finished), MUTANTS, timeouts_s)
        for mutant, failure in zip(MUTANTS, failures, strict=True):
            _count(counts, mutant, failure)
            table.append(f"| {mutant.file} | {mutant.guard} | {failure or 'NO TEST'} |")
            print(table[-1], flush=True)
    counts.page = "\n".join(table)
    return counts


def _count(counts: Counts, mutant: Mutant, failure: str) -> None:
    counts.add("guards removed")
    counts.expect(failure, f"{mutant.file}: no test fails without the guard: {mutant.guard}")


def _timeout_s(seconds: Iterable[float]) -> float:
    return max(TESTS_TIMEOUT_MIN_S, TIMEOUT_FACTOR * sum(seconds))


def _seconds_unchanged(copies: SimpleQueue[Path], finished: Finished[float], file: str) -> float | None:
    """Return how long a file of tests takes without a change, or None when one fails twice: on a busy machine one may
    miss a time limit."""
    if file in finished.done:
        return finished.done[file]
    with _taken(copies) as copy:
        for _ in range(2):
            began = time.monotonic()
            if not _first_failure(copy, [file], UNCHANGED_TIMEOUT_S):
                finished.add(file, time.monotonic() - began)
                return time.monotonic() - began
        return None


def _failure_in_some_copy(copies: SimpleQueue[Path], finished: Finished[str], mutant: Mutant, timeout_s: float) -> str:
    key = f"{mutant.file}, {mutant.guard}"
    if key in finished.done:
        return finished.done[key]
    with _taken(copies) as copy:
        failure = _failure_without(mutant, copy, timeout_s)
    finished.add(key, failure)
    return failure


@contextmanager
def _taken(copies: SimpleQueue[Path]) -> Iterator[Path]:
    """Take a copy of the checkout that no other thread uses."""
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


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
    usual = ["-q", "-x", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0", "--no-header"]
    words = [*usual, "-p", "tests.support.without_shrinking", *tests]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), **COMPILED},
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
