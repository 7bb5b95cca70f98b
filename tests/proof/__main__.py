"""Attack the promises: run the named parts, or all, and print what was tried and what was lost or wrong.

``--long``, the default, takes hours and saves each part's result in docs/proof/ and docs/proof.md. ``--short`` is what
`make test` runs. ``--seed N`` makes the random choices of an earlier run. ``simulation --replay SEED`` runs the one
schedule that a complaint names, in the simulation and then with a real Valkey as its store. The other parts run on real
servers and can only be repeated as a whole.
"""

from __future__ import annotations

import argparse
import math
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.proof import report
from tests.proof.parts import PARTS, PartContext, Scale, load_part, run_part
from tests.support.servers import NOT_DURABLE


def main() -> int:
    """Run the parts; return 1 if anything was lost or wrong."""
    asked = _arguments()
    os.environ |= NOT_DURABLE
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    scale: Scale = "short" if asked.short else "long"
    print(f"seed {seed}, {scale}", flush=True)
    results: list[report.Result] = []
    for name in asked.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="proof-") as folder:
            context, began, commit = (
                PartContext(seed, scale, Path(folder), minutes=asked.minutes),
                time.monotonic(),
                report.commit(),
            )
            counts = run_part(name, context) if asked.replay is None else load_part(name).replay(context, asked.replay)
            results.append(report.Result(load_part(name).TITLE, seed, counts, time.monotonic() - began))
        print(f"{name}: {counts} ({results[-1].seconds:.0f} s)", flush=True)
        if scale == "long" and asked.replay is None:
            report.save(name, results[-1], commit)
    print(f"\n{report.table(results)}")
    found = report.complaints(results)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make proof", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--seed", type=int, help="seed of all random choices (default: a new one)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="minutes; what `make test` runs")
    length.add_argument("--long", action="store_true", help="hours; the default, saves the results")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="end `kills` and `simulation` then, whatever they have reached"
    )
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one schedule of the simulation")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if asked.replay is not None and len(asked.parts) != 1:
        parser.error("--replay needs exactly one part")
    if asked.replay is not None and not hasattr(load_part(asked.parts[0]), "replay"):
        parser.error(f"{asked.parts[0]} has no single runs to replay; --seed repeats a whole run")
    return asked


if __name__ == "__main__":
    sys.exit(main())
