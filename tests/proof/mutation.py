"""Part 8: each guard is removed in turn from a copy of the checkout, and some test of the ordinary suite must fail."""

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
from tests.proof.trial import Counts, Trial

TITLE: Final = "8 mutation"
ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("commands", "projections", "queries", "workers", "api", "cli", "tests")
FILES: Final = ("pyproject.toml", "Procfile", "README.md")
# A loop that its guard has kept from running for ever is stopped, which counts as noticed; so it must not be taken for
# one on a machine that is busy with other things, where the tests as they are take long, too.
LIMIT_S: Final = 240.0
TIMES: Final = 5
STOP_S: Final = 30.0
FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
HANGS: Final = "it runs for ever"


def run(trial: Trial) -> Counts:
    """All of them, and the copy as it is, of which no test may fail; in the short form one of the script's."""
    counts = Counts()
    for mutant in MUTANTS:
        found = (ROOT / mutant.file).read_text().count(mutant.old)
        counts.expect(found == 1, f"{mutant.file}, {mutant.guard}: the text to remove is there {found} times")
    if counts.wrong:
        return counts
    copy = _copy(trial.folder / "copy")
    chosen: Sequence[Mutant] = MUTANTS
    limits = dict.fromkeys(TESTS, LIMIT_S)
    if trial.scale == "short":
        chosen = [trial.chance("mutation").choice([mutant for mutant in MUTANTS if mutant.file == APPLY])]
    else:
        for file, tests in TESTS.items():
            began = time.monotonic()
            counts.expect(not _first_failure(copy, tests, TIMES * LIMIT_S), f"tests of {file} fail without any change")
            limits[file] = max(LIMIT_S, TIMES * (time.monotonic() - began))
            counts.add("runs without a change, which must pass")
        if counts.wrong:
            return counts
    table = ["| file | guard removed | noticed by |", "|---|---|---|"]
    for mutant in chosen:
        failure = _fate(copy, mutant, limits[mutant.file])
        counts.add("guards removed")
        counts.expect(failure, f"{mutant.file}: no test misses the guard: {mutant.guard}")
        table.append(f"| {mutant.file} | {mutant.guard} | {failure or 'NOBODY'} |")
        if trial.scale == "long":
            print(table[-1], flush=True)
    counts.page = "\n".join(table)
    return counts


def _copy(folder: Path) -> Path:
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


def _fate(copy: Path, mutant: Mutant, limit_s: float) -> str:
    """The first test that fails without the guard, or nothing."""
    place = copy / mutant.file
    whole = place.read_text()
    place.write_text(whole.replace(mutant.old, mutant.new))
    try:
        return _first_failure(copy, TESTS[mutant.file], limit_s)
    finally:
        place.write_text(whole)


def _first_failure(copy: Path, tests: Sequence[str], limit_s: float) -> str:
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
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that its servers are stopped
        try:
            process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return HANGS
    if process.returncode == 0:
        return ""
    failed = FAILED.search(said)
    assert process.returncode == 1 and failed, said[-2_000:]
    return failed.group(1)
