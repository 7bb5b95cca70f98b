"""`follows rebuild` and `undo-switch`: new views beside the live ones, and the way back."""

import asyncio
from collections.abc import Callable

import click
import msgspec

from cli.progress import Meter
from cli.tools import print_json, run
from commands import census
from commands.errors import Invalid
from commands.postgres import Engine
from projections.building import Progress
from projections.estimating import Estimate, estimate
from projections.generations import live_view
from projections.keys import GROUPS, LANES, View
from projections.rebuilding import Builder, Order
from projections.repairing import rebuild_users
from projections.store import Store
from projections.wakeup import QueueSettings, enqueue_rebuild


def _lanes(_: click.Context, __: click.Parameter, value: int) -> int:
    if value % GROUPS:
        raise click.BadParameter(f"{value} is not a multiple of {GROUPS}")
    return value


@click.command()
@click.option("--user", "users", multiple=True, metavar="USER", help="Only this user, in place; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and write nothing.")
@click.option("--rate", type=click.IntRange(min=1), help="At most so many events a second.")
@click.option(
    "--lanes", type=click.IntRange(GROUPS, 16384), default=LANES, show_default=True, callback=_lanes, help="Cut it so."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that fill.")
@click.option("--no-verify", is_flag=True, help="Switch without comparing the new views with the log.")
@click.option("--job", is_flag=True, help="Let the rebuilder process do it, and return at once.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def rebuild(
    users: tuple[str, ...],
    dry_run: bool,
    rate: int | None,
    lanes: int,
    workers: int,
    no_verify: bool,
    job: bool,
    as_json: bool,
) -> None:
    """Build the views anew beside the live ones.

    The new generation is filled from the log, compared with it, and then readers see it in one atomic step; the one
    before is kept for `follows undo-switch`, older ones are removed. Killed at any moment, it leaves what readers see
    as it was, and the next call goes on where this one stopped. Live reads and projection go on, and come first.

    With --user only what the live views hold of these users is made anew, in place. USER is an id, a login, or '#' and
    a number (in quotes, for the shell). With --job the work is done by the process `python -m workers rebuilds`;
    `follows generations` shows how far it is.
    """
    if users:
        if dry_run or job or rate or workers != 1 or no_verify or lanes != LANES:
            raise click.UsageError("--user goes with --json only")
        _print_mended(run(lambda engine, store: _rebuild_users(engine, store, users)), as_json)
    elif dry_run:
        _print_estimate(run(estimate), as_json)
    elif job:
        order = Order(lanes=lanes, rate=rate, workers=workers, reason="a job", verify=not no_verify)
        _print_queued(asyncio.run(enqueue_rebuild(QueueSettings.from_env(), msgspec.to_builtins(order))), as_json)
    else:
        order = Order(lanes=lanes, rate=rate, workers=workers, verify=not no_verify)
        _print_view(run(lambda engine, store: _rebuild(engine, store, order)), as_json)


async def _rebuild(engine: Engine, store: Store, order: Order) -> View:
    async with Builder(engine, store, QueueSettings.from_env()) as builder:
        with Meter("rebuild", "events", None) as meter:
            return await builder.rebuild(order, _show(meter))


async def _rebuild_users(engine: Engine, store: Store, names: tuple[str, ...]) -> dict[str, int]:
    view = await live_view(store)
    if view is None:
        raise Invalid("there is no view yet: it is being built, or no worker runs")
    numbers = sorted({(await census.find(engine, name)).number for name in names})
    return {"users": len(numbers), "changed": await rebuild_users(engine, store, view, numbers)}


def _show(meter: Meter) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        meter.total(progress.head)
        meter.reached(progress.position, progress.events)

    return show


@click.command("undo-switch")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def undo_switch(as_json: bool) -> None:
    """Make readers see the generation before this one again.

    It is brought up to the log first. Done twice, readers see the one of now again.
    """

    async def work(engine: Engine, store: Store) -> View:
        async with Builder(engine, store, QueueSettings.from_env()) as builder:
            with Meter("catching up", "events", None) as meter:
                return await builder.undo(_show(meter))

    _print_view(run(work), as_json)


def _print_view(view: View, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        click.echo(f"readers see generation {view.generation} ({view.lanes} lanes)")


def _print_mended(counts: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        click.echo(f"made {counts['users']:,} users anew: {counts['changed']:,} values were others")


def _print_queued(is_new: bool, as_json: bool) -> None:
    if as_json:
        print_json({"queued": is_new})
    else:
        click.echo("the rebuilder will do it" if is_new else "a rebuild is queued or running already")


def _print_estimate(cost: Estimate, as_json: bool) -> None:
    if as_json:
        print_json(cost)
        return
    size = "not known, there is no live view" if cost.expected_bytes is None else f"{cost.expected_bytes:,} bytes"
    click.echo(f"events to project: {cost.events:,}")
    click.echo(f"expected size in Redis: {size}")
    click.echo(f"expected time: {cost.expected_s:,.0f} s with one process, half of it to compare with the log")
