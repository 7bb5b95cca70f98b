"""`make bench`: run the chosen rows one after the other, print the table and save it."""

import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from bench.cpu import OthersMeter
from bench.report import earlier, line, machine, new_report, save
from bench.result import Result
from bench.rows import (
    celebrity,
    deep,
    lists,
    logs,
    longest,
    mixed,
    pages,
    peers,
    process,
    rebuild,
    space,
    status,
    switching,
    verifying,
    visible,
    writes,
)
from bench.settings import FULL, QUICK
from bench.testbed import Testbed, open_testbed

RESULTS: Final = Path(__file__).with_name("results")
ROWS: Final[dict[str, Callable[[Testbed], Iterator[Result]]]] = {
    "status": status.run,
    "page": lists.run,
    "page-cold": pages.run_cold,
    "page-written": pages.run_written,
    "kraken": lists.run_kraken,
    "follow": writes.run,
    "cold": writes.run_cold,
    "deep": deep.run,
    "longest": longest.run,
    "peers": peers.run,
    "mixed": mixed.run,
    "visible": visible.run,
    "log": logs.run,
    "rebuild": rebuild.run,
    "memory": rebuild.run_memory,
    "switch": switching.run,
    "verify": verifying.run,
    "space": space.run,
    "celebrity": celebrity.run,
    "start": process.run_start,
    "scale": process.run_scale,
    "limits": process.run_limits,
    "generator": process.run_generator,
}


@click.command(help=f"Measure the service on this machine. Rows: {', '.join(ROWS)}.")
@click.option("--rows", default="", metavar="NAME,...", help="Only these, in this order.")
@click.option("--quick", is_flag=True, help="Shorter and less exact.")
@click.option("--graph", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Edges to measure on, CSV.")
@click.option("--minutes", default=19.0, show_default=True, help="Rows that have not started by then are not run.")
@click.option("--keep", is_flag=True, help="Keep the saved results of rows that are not run now.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, help="Where to save.")
def main(rows: str, quick: bool, graph: Path | None, minutes: float, keep: bool, results: Path) -> None:
    """Run the rows; exit with 1 when one is invalid."""
    names = [name for name in rows.split(",") if name] or list(ROWS)
    if unknown := set(names) - set(ROWS):
        raise click.UsageError(f"there is no row {', '.join(sorted(unknown))}")
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="follows-bench-"))
    folder.chmod(0o711)
    settings = QUICK if quick else FULL
    found: list[Result] = []
    try:
        with open_testbed(folder, msgspec.structs.replace(settings, graph=graph)) as testbed:
            about = machine(testbed.server_settings())
            for name in names:
                if time.monotonic() - began > minutes * 60:
                    found.append(Result(name, name, "", "", [], invalid=f"not run: {minutes:g} minutes were over"))
                else:
                    found += _run(testbed, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if found:
            kept = earlier(results, names) if keep else []
            save(results, new_report([*kept, *found], time.monotonic() - began, about))
            click.echo(f"{time.monotonic() - began:.0f} s; saved in {results}")
    if any(result.verdict == "invalid" for result in found):
        raise SystemExit(1)


def _run(testbed: Testbed, name: str) -> list[Result]:
    """Run one row; one that fails is reported and does not stop the others."""
    began, found, others = time.monotonic(), list[Result](), OthersMeter()
    try:
        for result in ROWS[name](testbed):
            found.append(result)
            click.echo(line(result))
    except Exception as error:
        traceback.print_exc()
        found.append(Result(name, name, "", "", [], invalid=repr(error)))
    cores = round(others.cores(), 2)
    for result in found:
        result.details["others_cores"] = cores
    click.echo(f"  ({name}: {time.monotonic() - began:.0f} s; other processes used {cores:g} cores)")
    return found


if __name__ == "__main__":
    main()
