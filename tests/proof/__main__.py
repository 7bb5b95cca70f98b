"""`make proof`: runs the parts that are named, or all, and says what was tried and what was lost.

``--long`` by default, which keeps each part's result in docs/proof/ for docs/proof.md, so that parts may be run one at
a time; ``--short`` is what `make test` does. ``--seed N`` draws the same chances again. ``simulation --replay SEED``
replays one schedule of those that a complaint names, in the simulation and then with a real Valkey for its store; the
other parts run on real servers anyway and have no single runs.
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
    parser.add_argument("--seed", type=int, help="of all chances; a new one when it is not given")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="what `make test` does")
    length.add_argument("--long", action="store_true", help="hours; the default")
    parser.add_argument("--replay", type=int, metavar="SEED", help="a complaint's, of the simulation alone")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if asked.replay is not None and len(asked.parts) != 1:
        parser.error("--replay needs the one part to replay")
    if asked.replay is not None and not hasattr(part(asked.parts[0]), "replay"):
        parser.error(f"{asked.parts[0]} has no single runs to replay; --seed does a whole run again")
    return asked


if __name__ == "__main__":
    sys.exit(main())
