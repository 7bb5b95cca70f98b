"""`follows parked`: the events that could not be projected; `retry` and `skip` unpark them."""

import click
import msgspec

from cli.arguments import json_option, print_json, who_option
from cli.connect import require_live_view, run, run_on_log, store_or_all
from commands.coordination import parked as parked_pairs
from commands.coordination.parked import ParkedEvent
from commands.db.postgres import Engine
from commands.errors import Invalid
from projections.client.client import RedisClient
from projections.errors import StillParked, ViewLost
from projections.feeding.feeders import require_feeder
from projections.keys import View
from projections.verify.retry_parked import retry as retry_pair
from projections.verify.retry_parked import skip as skip_event
from projections.views.feeder_record import store_of

_Pair = tuple[int, int]


class PairResult(msgspec.Struct):
    """A pair after `retry` or `skip`: how many of its events were unparked, and the error that left the others."""

    subject: int
    object: int
    unparked: int = 0
    error: str | None = None


skipped_option = click.option("--skipped", is_flag=True, help="Also show events that were skipped.")


@click.group("parked", invoke_without_command=True)
@json_option
@skipped_option
@click.pass_context
def parked_command(context: click.Context, as_json: bool, skipped: bool) -> None:
    """Show events that could not be projected, and later events of their pairs.

    An event that cannot be projected is parked, and so are later events of its pair (follower, followed). All other
    pairs go on. `retry` repairs a pair once the cause is gone; `skip` leaves an event out for ever.
    """
    if context.invoked_subcommand is None:
        _show(skipped, as_json)


@parked_command.command("list")
@json_option
@skipped_option
def list_command(as_json: bool, skipped: bool) -> None:
    """Show the parked events, as `follows parked` does."""
    _show(skipped, as_json)


@parked_command.command("retry")
@click.argument("positions", type=int, nargs=-1, metavar="[POSITION]...")
@click.option("--all", "everything", is_flag=True, help="Retry all parked events.")
@json_option
def retry_command(positions: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """Repair the pairs of these parked events.

    The views of each pair are made equal to the log, and its events are unparked. The exit code is 1 when a pair still
    cannot be repaired.
    """
    if bool(positions) == everything:
        raise click.UsageError("give positions or --all")

    async def work(engine: Engine, redis: RedisClient) -> list[PairResult]:
        rows = await parked_pairs.read_parked(engine, store=await store_of(redis))
        pairs = dict.fromkeys(_pair(row) for row in (rows if everything else _chosen(rows, positions)))
        await require_feeder(engine, redis)
        view = await require_live_view(redis)
        return [await _retry(engine, redis, view, pair) for pair in pairs]

    _report(run(work), as_json)


@parked_command.command("skip")
@click.argument("position", type=int)
@click.option("--reason", required=True, metavar="REASON", help="Give the reason; `parked --skipped` shows it.")
@who_option
@json_option
def skip_command(position: int, reason: str, name: str, as_json: bool) -> None:
    """Leave an event out of the views for ever.

    The views are made, and commands decided, as if the event were not in the log, and later events of its pair are
    unparked.
    """

    async def work(engine: Engine, redis: RedisClient) -> PairResult:
        await require_feeder(engine, redis)
        (row,) = _chosen(await parked_pairs.read_parked(engine, store=await store_of(redis)), (position,))
        try:
            count = await skip_event(engine, redis, await require_live_view(redis), row, name, reason)
        except (StillParked, ViewLost) as error:
            return PairResult(*_pair(row), error=error.message)
        return PairResult(*_pair(row), count)

    _report([run(work)], as_json)


async def _retry(engine: Engine, redis: RedisClient, view: View, pair: _Pair) -> PairResult:
    try:
        return PairResult(*pair, await retry_pair(engine, redis, view, *pair))
    except (StillParked, ViewLost) as error:
        return PairResult(*pair, error=error.message)


def _chosen(rows: list[ParkedEvent], positions: tuple[int, ...]) -> list[ParkedEvent]:
    by_position = {row.position: row for row in rows}
    for position in positions:
        if position not in by_position:
            raise Invalid(f"position {position} is not parked: `follows parked` shows what is")
    return [by_position[position] for position in positions]


def _pair(row: ParkedEvent) -> _Pair:
    return row.subject, row.object


def _pair_name(subject: int, object_: int) -> str:
    return f"#{subject}" if subject == object_ else f"#{subject} and #{object_}"


def _show(skipped: bool, as_json: bool) -> None:
    async def work(engine: Engine) -> list[ParkedEvent]:
        return await parked_pairs.read_parked(engine, skipped=skipped, store=await store_or_all() or None)

    rows = run_on_log(work)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        skip = f"; skipped by {row.skipped_by}: {row.skipped_why}" if row.skipped else ""
        names = _pair_name(*_pair(row))
        click.echo(f"{row.position:>10}  {row.parked_at:%Y-%m-%d %H:%M}  {names}: {row.reason}{skip}")
    if not rows:
        click.echo("nothing is parked")


def _report(outcomes: list[PairResult], as_json: bool) -> None:
    if as_json:
        print_json(outcomes)
    else:
        for one in outcomes:
            click.echo(
                f"{_pair_name(one.subject, one.object)}: {one.error or f'repaired, {one.unparked:,} events unparked'}"
            )
        if not outcomes:
            click.echo("nothing is parked")
    if any(one.error for one in outcomes):
        raise SystemExit(1)
