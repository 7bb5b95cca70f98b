"""`follows rebuild` and `undo-switch`: switching readers to newly built views, and back."""

from collections.abc import Callable

import click
import msgspec

from cli.arguments import json_option, print_json
from cli.connect import require_live_view, run, run_on_log, store_or_all
from cli.progress import Meter
from commands.db.postgres import Engine
from commands.log import user_search
from projections.client.client import RedisClient
from projections.feeding.feeders import require_feeder
from projections.keys import LEASE_GROUPS, PARTITIONS, View
from projections.rebuild.estimate import Estimate, estimate
from projections.rebuild.pace import BuildProgress
from projections.rebuild.rebuild import Builder, RebuildOptions
from projections.signals.job_queue import QueueSettings, enqueue_rebuild
from projections.verify.repair import rebuild_users


def _partitions(_: click.Context, __: click.Parameter, value: int) -> int:
    if value % LEASE_GROUPS:
        raise click.BadParameter(f"{value} is not a multiple of {LEASE_GROUPS}")
    return value


@click.command("rebuild")
@click.option(
    "--user", "users", multiple=True, metavar="USER", help="Rewrite only this user, in place; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Print the expected cost and write nothing.")
@click.option("--rate", type=click.IntRange(min=1), metavar="N", help="Project at most N events per second.")
@click.option(
    "--partitions",
    type=click.IntRange(LEASE_GROUPS, 16384),
    default=PARTITIONS,
    show_default=True,
    callback=_partitions,
    metavar="N",
    help=f"Split the new views into N partitions, a multiple of {LEASE_GROUPS}.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="Fill the new views with N processes.",
)
@click.option("--no-verify", is_flag=True, help="Switch without comparing the new views with the log.")
@click.option("--job", is_flag=True, help="Queue the rebuild for the rebuilder process and return at once.")
@json_option
def rebuild_command(
    users: tuple[str, ...],
    dry_run: bool,
    rate: int | None,
    partitions: int,
    workers: int,
    no_verify: bool,
    job: bool,
    as_json: bool,
) -> None:
    """Build new views and switch readers to them.

    A new generation is filled from the log and compared with it; then readers are switched to it in one atomic step.
    The previous generation is kept for `follows undo-switch`; older ones are deleted. A rebuild that is killed changes
    nothing that readers see, and the next call resumes it. Reads and projection go on, and take precedence.

    With --user, the live views of these users are rewritten in place. USER is an id, a login, or '#' and a number
    (quoted, for the shell). With --job, the process `follows rebuilder` does the work, and `follows
    generations` shows its progress.
    """
    if users:
        if dry_run or job or rate or workers != 1 or no_verify or partitions != PARTITIONS:
            raise click.UsageError("--user can be combined with --json only")
        _print_repaired(run(lambda engine, redis: _rebuild_users(engine, redis, users)), as_json)
    elif dry_run:
        _print_estimate(run(estimate), as_json)
    elif job:
        options = RebuildOptions(
            partitions=partitions, rate=rate, workers=workers, reason="a job", verify=not no_verify
        )
        queue = QueueSettings.from_env()
        _print_queued(run_on_log(lambda engine: _enqueue(engine, queue, options)), as_json)
    else:
        options = RebuildOptions(partitions=partitions, rate=rate, workers=workers, verify=not no_verify)
        _print_view(run(lambda engine, redis: _rebuild(engine, redis, options)), as_json)


async def _enqueue(engine: Engine, queue: QueueSettings, options: RebuildOptions) -> bool:
    return await enqueue_rebuild(engine, queue, msgspec.to_builtins(options) | {"store": await store_or_all()})


async def _rebuild(engine: Engine, redis: RedisClient, options: RebuildOptions) -> View:
    async with Builder(engine, redis, QueueSettings.from_env()) as builder:
        with Meter("rebuild", "events", None) as meter:
            return await builder.rebuild(options, _on_progress(meter))


async def _rebuild_users(engine: Engine, redis: RedisClient, names: tuple[str, ...]) -> dict[str, int]:
    await require_feeder(engine, redis)
    view = await require_live_view(redis)
    numbers = sorted({(await user_search.find_user(engine, name)).number for name in names})
    return {"users": len(numbers), "changed": await rebuild_users(engine, redis, view, numbers)}


def _on_progress(meter: Meter) -> Callable[[BuildProgress], None]:
    def show(progress: BuildProgress) -> None:
        meter.total(progress.head)
        meter.reached(progress.position, progress.events)

    return show


@click.command("undo-switch")
@json_option
def undo_switch(as_json: bool) -> None:
    """Switch readers back to the previous generation.

    Its views are brought up to date first. Called twice, it switches readers back to the generation of now.
    """

    async def work(engine: Engine, redis: RedisClient) -> View:
        async with Builder(engine, redis, QueueSettings.from_env()) as builder:
            with Meter("catching up", "events", None) as meter:
                return await builder.undo(_on_progress(meter))

    _print_view(run(work), as_json)


def _print_view(view: View, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        click.echo(f"readers see generation {view.generation} ({view.partitions} partitions)")


def _print_repaired(counts: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        click.echo(f"rewrote {counts['users']:,} users: {counts['changed']:,} values changed")


def _print_queued(is_new: bool, as_json: bool) -> None:
    if as_json:
        print_json({"queued": is_new})
    else:
        click.echo("queued for the rebuilder" if is_new else "a rebuild is already queued or running")


def _print_estimate(cost: Estimate, as_json: bool) -> None:
    if as_json:
        print_json(cost)
        return
    size = "unknown, there is no live view" if cost.expected_bytes is None else f"{cost.expected_bytes:,} bytes"
    click.echo(f"events to project: {cost.events:,}")
    click.echo(f"expected size in Redis: {size}")
    click.echo(f"expected time: {cost.expected_s:,.0f} s with one process, most of it comparing with the log")
