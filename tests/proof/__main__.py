"""`make proof`: runs the parts that are named, or all, and says what was tried and what was lost.

``--long`` by default, which keeps each part's result in docs/proof/ for docs/proof.md, so that parts may be run one at
a time; ``--short`` is what `make test` does. ``--replay SEED`` replays one failing run of the one part that is named,
on the real servers.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.proof import report
from tests.proof.trial import PARTS, Scale, Trial, attempt, part


def main() -> int:
    """Run; 1 when anything was lost or wrong."""
    asked = _arguments()
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    scale: Scale = "short" if asked.short else "long"
    print(f"seed {seed}, {scale}", flush=True)
    results: list[report.Result] = []
    for name in asked.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="proof-") as folder:
            trial, began, commit = Trial(seed, scale, Path(folder)), time.monotonic(), report.commit()
            counts = attempt(name, trial) if asked.replay is None else part(name).replay(trial, asked.replay)
            results.append(report.Result(part(name).TITLE, seed, counts, time.monotonic() - began))
        print(f"{name}: {counts} ({results[-1].seconds:.0f} s)", flush=True)
        if scale == "long" and asked.replay is None:
            report.keep(name, results[-1], commit)
    print(f"\n{report.table(results)}")
    found = report.wrongs(results)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make proof", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--seed", type=int)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true")
    length.add_argument("--long", action="store_true")
    parser.add_argument("--replay", type=int, metavar="SEED")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if asked.replay is not None and len(asked.parts) != 1:
        parser.error("--replay needs the one part to replay")
    return asked


if __name__ == "__main__":
    sys.exit(main())
