"""`make bench-large`: a log of at least twenty million events, a rebuild of the views from it, and their comparison.

It takes long and some 10 GB of disk. Timed: the bulk import (one connection, batches of its own size), the fill of a
new generation in a process of its own, with the peak memory of that process, then `follows rebuild --no-verify` and
`follows verify`. The results are saved in ``large.json`` next to those of `make bench`.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from bench.long_log import append_follows
from bench.report import figure, machine
from bench.result import Aim, Result
from bench.rows.rebuild import run_fill
from bench.rows.verifying import run_command
from bench.settings import FULL
from bench.testbed import Testbed, open_testbed

RESULTS: Final = Path(__file__).with_name("results")
FOLLOWS: Final = 20_000_000
MEGABYTE: Final = 1e6
STEP_TIMEOUT_S: Final = 4 * 3600
BUILDER_PEAK_MB: Final = 150


@click.command()
@click.option("--follows", default=FOLLOWS, show_default=True, help="Follows to append; their users come on top.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Where to save.")
def main(follows: int, results: Path) -> None:
    """Append, rebuild, verify, print and save."""
    folder = Path(tempfile.mkdtemp(prefix="follows-bench-"))
    folder.chmod(0o711)
    report: dict[str, Any] = {}
    try:
        with open_testbed(folder, FULL) as testbed:
            about = machine(testbed.server_settings())
            report |= _shown(_append(testbed, follows))
            report |= _shown(_fill(testbed))
            report |= _shown(_rebuild(testbed))
            report |= _shown(_verify(testbed, report["events"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(report | {"machine": about})) + b"\n"
    (results / "large.json").write_bytes(text)
    click.echo(f"saved in {results}")


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """Print what a step has found, since the next one may take an hour, and return it."""
    click.echo(", ".join(f"{name} {figure(one) if isinstance(one, float) else one}" for name, one in found.items()))
    return found


def _append(testbed: Testbed, follows: int) -> dict[str, Any]:
    began = time.monotonic()
    added = append_follows(testbed.database, follows, seed=1)
    return {"follows": added, "appended_per_s": added / (time.monotonic() - began)}


def _fill(testbed: Testbed) -> dict[str, Any]:
    """Fill a generation; the aim is of the filling process, which a rebuild is too."""
    fill = run_fill(testbed, timeout_s=STEP_TIMEOUT_S)
    peak = Result("large", "peak memory", "", "MB", [fill.peak / MEGABYTE], [], Aim("ours", "<=", BUILDER_PEAK_MB))
    return {
        "events": fill.events,
        "filled_per_s": fill.events / fill.seconds,
        "filler_before_mb": fill.before / MEGABYTE,
        "filler_peak_mb": peak.ours[0],
        "filler_peak_aim": f"{peak.aim} MB: {peak.verdict}",
        "valkey_mb": fill.views_bytes / MEGABYTE,
    }


def _rebuild(testbed: Testbed) -> dict[str, Any]:
    """Rebuild without a comparison; the view that is live then is what `follows verify` compares."""
    spent = run_command(testbed, STEP_TIMEOUT_S, "rebuild", "--no-verify", "--json")
    return {"rebuild_s": spent.seconds, "rebuild_cpu_s": spent.cpu_s}


def _verify(testbed: Testbed, events: int) -> dict[str, Any]:
    spent = run_command(testbed, STEP_TIMEOUT_S, "verify", "--json")
    return {
        "verify_s": spent.seconds,
        "verify_cpu_s": spent.cpu_s,
        "verified_per_s": events / spent.seconds,
        "verified_per_cpu_s": events / spent.cpu_s,
    }


if __name__ == "__main__":
    main()
