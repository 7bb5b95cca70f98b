"""`follows generations`: which views there are, how far each is, and removing those that nobody sees."""

from typing import Any

import click
import msgspec

from cli.tools import print_json, run
from commands import log
from commands.postgres import Engine
from projections.rebuilding import Builder, known_generations
from projections.store import Store
from projections.wakeup import QueueSettings


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def generations(context: click.Context, as_json: bool) -> None:
    """Show the generations of views.

    Which one readers see (*), which are kept for `follows undo-switch`, which is being built and how far that is.
    """
    if context.invoked_subcommand is not None:
        return

    async def rows(engine: Engine, store: Store) -> list[dict[str, Any]]:
        head = (await log.head(engine)).position
        known = await known_generations(engine, store)
        return [{**msgspec.to_builtins(row), "position": at, "head": head, "seen": seen} for row, at, seen in known]

    found = run(rows)
    if as_json:
        print_json(found)
        return
    for row in found:
        mark = "*" if row["seen"] else " "
        click.echo(f"{mark} {row['number']:>4}  {row['state']:<9} {row['lanes']} lanes, {_place(row)}; {row['reason']}")
    if not found:
        click.echo("there is no generation yet: a worker makes the first")


def _place(row: dict[str, Any]) -> str:
    if row["position"] is None:
        return "its lanes are gone"
    done = 100 * row["position"] // row["head"] if row["head"] else 100
    return f"at position {row['position']:,} ({done} %)"


@generations.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def prune(as_json: bool) -> None:
    """Remove every generation that readers do not see.

    In small steps, and also what an unfinished rebuild has left. There is nothing to undo after that.
    """

    async def work(engine: Engine, store: Store) -> dict[int, int]:
        async with Builder(engine, store, QueueSettings.from_env()) as builder:
            return await builder.prune()

    removed = run(work)
    if as_json:
        print_json({str(number): keys for number, keys in removed.items()})
        return
    for number, keys in removed.items():
        click.echo(f"generation {number}: {keys:,} keys removed")
    if not removed:
        click.echo("there was nothing to remove")
