"""`make bench-large`: a log of at least twenty million events, and the views rebuilt from it. Takes long,
and some 10 GB of disk.

Timed: appending by the product's bulk path (one connection, batches of its own size), then the fill of a new generation
in a process of its own. Memory of that process at its peak. Saved in ``large.json`` beside the results of `make bench`.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from bench import cpu
from bench.growing import append_follows
from bench.pace import FULL
from bench.report import machine
from bench.rows.rebuild import filling
from bench.stage import open_stage

RESULTS: Final = Path(__file__).with_name("results")
FOLLOWS: Final = 20_000_000
MEGABYTE: Final = 1e6


@click.command()
@click.option("--follows", default=FOLLOWS, show_default=True, help="How many to append; users come on top.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Where to save.")
def main(follows: int, results: Path) -> None:
    """Appends, rebuilds, prints and saves."""
    folder = Path(tempfile.mkdtemp(prefix="follows-bench-"))
    folder.chmod(0o711)
    try:
        with open_stage(folder, FULL) as stage:
            about, began = machine(stage.settings()), time.monotonic()
            added = append_follows(stage.database, follows, seed=1)
            took = time.monotonic() - began
            click.echo(f"{added:,} follows appended in {took:.0f} s: {added / took:,.0f}/s")
            filled = filling(stage, limit_s=4 * 3600)
            told = {
                "follows": added,
                "appended_per_s": added / took,
                "events": filled.events,
                "projected_per_s": filled.events / filled.seconds,
                "filler_peak_mb": filled.peak / MEGABYTE,
                "filler_before_mb": filled.before / MEGABYTE,
                "valkey_mb": cpu.resident(stage.pids["valkey"]) / MEGABYTE,
                "machine": about,
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(told)) + b"\n"
    (results / "large.json").write_bytes(text)
    click.echo(text.decode())


if __name__ == "__main__":
    main()
