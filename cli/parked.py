"""`follows parked`: the events that the views do not hold, trying them again, or leaving one out for good."""

import click
import msgspec

from cli.tools import print_json, run, who
from commands import parking
from commands.errors import Invalid
from commands.parking import Parked
from commands.postgres import Engine
from projections.catch_up import ViewLost
from projections.generations import live_view
from projections.keys import View
from projections.store import Store
from projections.unparking import StillParked
from projections.unparking import retry as mend
from projections.unparking import skip as leave_out

Pair = tuple[int, int]


class Outcome(msgspec.Struct):
    """What came of a pair: how many of its events were let go, and if not all, why."""

    subject: int
    object: int
    let_go: int = 0
    error: str | None = None


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--skipped", is_flag=True, help="Also show what was left out for good.")
@click.pass_context
def parked(context: click.Context, as_json: bool, skipped: bool) -> None:
    """Show the events that could not be projected, and those behind them.

    An event that the views cannot take is parked, and later events of its pair (follower, followed) wait behind it.
    Everything else goes on. `retry` mends the pair when the cause is gone; `skip` leaves an event out for good.
    """
    if context.invoked_subcommand is None:
        _show(skipped, as_json)


@parked.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--skipped", is_flag=True, help="Also show what was left out for good.")
def list_(as_json: bool, skipped: bool) -> None:
    """The same as without a word."""
    _show(skipped, as_json)


@parked.command()
@click.argument("positions", type=int, nargs=-1, metavar="[POSITION]...")
@click.option("--all", "everything", is_flag=True, help="All that is parked.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def retry(positions: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """Bring the pairs of these events into the views again, as the log has them.

    The exit code is 1 when a pair still cannot be brought in.
    """
    if bool(positions) == everything:
        raise click.UsageError("give positions or --all")

    async def work(engine: Engine, store: Store) -> list[Outcome]:
        rows = await parking.parked(engine)
        pairs = dict.fromkeys(_pair(row) for row in (rows if everything else _chosen(rows, positions)))
        view = await _view(store)
        return [await _retry(engine, store, view, pair) for pair in pairs]

    _tell(run(work), as_json)


@parked.command()
@click.argument("position", type=int)
@click.option("--reason", required=True, help="Why; kept with your name.")
@click.option("--who", "name", default=who, show_default="you", help="Who decided it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def skip(position: int, reason: str, name: str, as_json: bool) -> None:
    """Leave an event out of the views for good, as if it were not in the log, and let those behind it go."""

    async def work(engine: Engine, store: Store) -> Outcome:
        (row,) = _chosen(await parking.parked(engine), (position,))
        try:
            count = await leave_out(engine, store, await _view(store), row, name, reason)
        except (StillParked, ViewLost) as error:
            return Outcome(*_pair(row), error=error.message)
        return Outcome(*_pair(row), count)

    _tell([run(work)], as_json)


async def _retry(engine: Engine, store: Store, view: View, pair: Pair) -> Outcome:
    try:
        return Outcome(*pair, await mend(engine, store, view, *pair))
    except (StillParked, ViewLost) as error:
        return Outcome(*pair, error=error.message)


async def _view(store: Store) -> View:
    view = await live_view(store)
    if view is None:
        raise Invalid("there is no view yet: it is being built, or no worker runs")
    return view


def _chosen(rows: list[Parked], positions: tuple[int, ...]) -> list[Parked]:
    by_position = {row.position: row for row in rows}
    for position in positions:
        if position not in by_position:
            raise Invalid(f"position {position} is not parked: `follows parked` shows what is")
    return [by_position[position] for position in positions]


def _pair(row: Parked) -> Pair:
    return row.subject, row.object


def _show(skipped: bool, as_json: bool) -> None:
    async def work(engine: Engine, _: Store) -> list[Parked]:
        return await parking.parked(engine, skipped=skipped)

    rows = run(work)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        left_out = f"; left out by {row.skipped_by}: {row.skipped_why}" if row.skipped else ""
        pair = f"#{row.subject}" if row.subject == row.object else f"#{row.subject} and #{row.object}"
        click.echo(f"{row.position:>10}  {row.parked_at:%Y-%m-%d %H:%M}  {pair}: {row.reason}{left_out}")
    if not rows:
        click.echo("nothing is parked")


def _tell(outcomes: list[Outcome], as_json: bool) -> None:
    if as_json:
        print_json(outcomes)
    else:
        for one in outcomes:
            pair = f"#{one.subject}" if one.subject == one.object else f"#{one.subject} and #{one.object}"
            click.echo(f"{pair}: {one.error or f'mended, {one.let_go:,} events let go'}")
        if not outcomes:
            click.echo("nothing is parked")
    if any(one.error for one in outcomes):
        raise SystemExit(1)
