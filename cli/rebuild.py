"""`follows rebuild`, `undo-switch` and `generations`: new views beside the live ones, and the way back."""

import asyncio
from typing import Any

import click
import msgspec

from cli.progress import Meter
from cli.tools import opened, print_json, run
from commands.postgres import Engine
from projections.building import Progress
from projections.keys import LANES, View
from projections.rebuilding import Builder, Estimate, Order, estimate, known_generations
from projections.store import Store
from projections.verifying import differences
from projections.wakeup import QueueSettings


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and write nothing.")
@click.option("--rate", type=click.IntRange(min=1), help="At most so many events a second.")
@click.option("--lanes", type=click.IntRange(1, 16384), default=LANES, show_default=True, help="Cut the view so.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that fill.")
@click.option("--no-verify", is_flag=True, help="Switch without comparing the new views with the log.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def rebuild(dry_run: bool, rate: int | None, lanes: int, workers: int, no_verify: bool, as_json: bool) -> None:
    """Build the views anew beside the live ones.

    The new generation is filled from the log, compared with it, and then readers see it in one atomic step;
    the old one is kept for `follows undo-switch`. Killed at any moment, it leaves what readers see as it was,
    and the next call goes on where this one stopped. Live reads and projection go on, and come first.
    """
    if dry_run:
        _print_estimate(run(estimate), as_json)
        return
    order = Order(lanes=lanes, rate=rate, workers=workers)
    view = asyncio.run(_rebuild(order, verify=not no_verify))
    _print_view(view, as_json)


async def _rebuild(order: Order, *, verify: bool) -> View:
    async with opened() as (engine, store), Builder(engine, store, QueueSettings.from_env()) as builder:

        async def check(view: View) -> int:
            return await differences(engine, store, view, builder.renew)

        with Meter("rebuild", "events", None) as meter:
            return await builder.rebuild(order, _show(meter), check if verify else None)


def _show(meter: Meter) -> Any:
    def show(progress: Progress) -> None:
        meter.total(progress.head)
        meter.reached(progress.position, progress.events)

    return show


@click.command("undo-switch")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def undo_switch(as_json: bool) -> None:
    """Make readers see the generation before this one again, after bringing it up to the log."""
    _print_view(asyncio.run(_undo()), as_json)


async def _undo() -> View:
    async with opened() as (engine, store), Builder(engine, store, QueueSettings.from_env()) as builder:
        with Meter("catching up", "events", None) as meter:
            return await builder.undo(_show(meter))


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def generations(context: click.Context, as_json: bool) -> None:
    """Show the generations of views: which one readers see, which are kept, which are being built."""
    if context.invoked_subcommand is not None:
        return

    async def rows(engine: Engine, store: Store) -> list[dict[str, Any]]:
        known = await known_generations(engine, store)
        return [{**msgspec.to_builtins(row), "position": at, "seen": seen} for row, at, seen in known]

    found = run(rows)
    if as_json:
        print_json(found)
        return
    for row in found:
        mark = "*" if row["seen"] else " "
        at = "its lanes are gone" if row["position"] is None else f"at position {row['position']:,}"
        click.echo(f"{mark} {row['number']:>4}  {row['state']:<9} {row['lanes']} lanes, {at}; {row['reason']}")
    if not found:
        click.echo("there is no generation yet: a worker makes the first")


@generations.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def prune(as_json: bool) -> None:
    """Remove every generation that readers do not see, in small steps; nothing to undo after that."""
    removed = asyncio.run(_prune())
    if as_json:
        print_json({str(number): keys for number, keys in removed.items()})
        return
    for number, keys in removed.items():
        click.echo(f"generation {number}: {keys:,} keys removed")
    if not removed:
        click.echo("there was nothing to remove")


async def _prune() -> dict[int, int]:
    async with opened() as (engine, store), Builder(engine, store, QueueSettings.from_env()) as builder:
        return await builder.prune()


def _print_view(view: View, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        click.echo(f"readers see generation {view.generation} ({view.lanes} lanes)")


def _print_estimate(cost: Estimate, as_json: bool) -> None:
    if as_json:
        print_json(cost)
        return
    size = "not known, there is no live view" if cost.expected_bytes is None else f"{cost.expected_bytes:,} bytes"
    click.echo(f"events to project: {cost.events:,}")
    click.echo(f"expected size in Redis: {size}")
    click.echo(f"expected time: {cost.expected_s:.0f} s with one process")
