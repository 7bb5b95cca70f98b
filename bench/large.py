"""`make bench-large`: a log of at least twenty million events, and a rebuild of the views from it.

It takes long and some 10 GB of disk. Timed: the bulk import (one connection, batches of its own size), then the fill of
a new generation in a process of its own, with the peak memory of that process. The results are saved in ``large.json``
next to those of `make bench`.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from bench import cpu
from bench.long_log import append_follows
from bench.report import machine
from bench.rows.rebuild import run_fill
from bench.settings import FULL
from bench.testbed import open_testbed

RESULTS: Final = Path(__file__).with_name("results")
FOLLOWS: Final = 20_000_000
MEGABYTE: Final = 1e6


@click.command()
@click.option("--follows", default=FOLLOWS, show_default=True, help="Follows to append; their users come on top.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Where to save.")
def main(follows: int, results: Path) -> None:
    """Append, rebuild, print and save."""
    folder = Path(tempfile.mkdtemp(prefix="follows-bench-"))
    folder.chmod(0o711)
    try:
        with open_testbed(folder, FULL) as testbed:
            about, began = machine(testbed.server_settings()), time.monotonic()
            added = append_follows(testbed.database, follows, seed=1)
            took = time.monotonic() - began
            click.echo(f"{added:,} follows appended in {took:.0f} s: {added / took:,.0f}/s")
            fill = run_fill(testbed, timeout_s=4 * 3600)
            report = {
                "follows": added,
                "appended_per_s": added / took,
                "events": fill.events,
                "projected_per_s": fill.events / fill.seconds,
                "filler_peak_mb": fill.peak / MEGABYTE,
                "filler_before_mb": fill.before / MEGABYTE,
                "valkey_mb": cpu.proportional(testbed.pids["valkey"]) / MEGABYTE,
                "machine": about,
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(report)) + b"\n"
    (results / "large.json").write_bytes(text)
    click.echo(text.decode())


if __name__ == "__main__":
    main()
