"""`follows check`: whether a process in this environment would work, before it is started."""

import click
import uvloop

from cli.arguments import json_option, print_json
from cli.checks import RESULTS, Finding, run_checks
from cli.errors import without_log_lines

SUBJECT_WIDTH = 9


@click.command("check")
@json_option
def check_command(as_json: bool) -> None:
    """Check every setting and server that the processes need.

    One line for each thing: ok, warn or fail, and what to do. A write is tried on each server: in PostgreSQL it is
    rolled back, in Redis it expires. A server is given two seconds. The exit code is 0 when all is ok, 1 when a line
    says warn, 2 when one says fail.
    """
    without_log_lines()
    found = uvloop.run(run_checks())
    worst = max((finding.result for finding in found), key=RESULTS.index)
    if as_json:
        print_json({"result": worst, "findings": found})
    else:
        click.echo("\n".join(map(_line, found)))
    raise SystemExit(RESULTS.index(worst))


def _line(finding: Finding) -> str:
    do = f"; do: {finding.do}" if finding.do else ""
    return f"{finding.result:4} {finding.subject:{SUBJECT_WIDTH}} {finding.message}{do}"
