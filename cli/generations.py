"""`follows generations`: the generations of views; `prune` deletes those that are not live, `diff` compares two."""

from typing import Any

import click
import msgspec

from cli.arguments import json_line, json_option, print_json
from cli.connect import run
from cli.times import format_time
from commands.db.postgres import Engine
from commands.errors import Invalid
from commands.log import event_log as log
from projections.client.client import RedisClient
from projections.keys import View
from projections.rebuild.rebuild import Builder, known_generations
from projections.signals.job_queue import QueueSettings
from projections.verify.generation_diff import (
    EntryState,
    FollowDifference,
    GenerationDifference,
    Person,
    ProfileDifference,
    differences_between,
)
from projections.views.feeder_record import registered
from projections.views.generations import view_position


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def generations(context: click.Context, as_json: bool) -> None:
    """Show the generations of views.

    The live one, which readers see, is marked with *. Older ones are there for `follows undo-switch`. A kept one has
    what the log has lost. One that is being built is shown with its progress.
    """
    if context.invoked_subcommand is not None:
        return

    async def rows(engine: Engine, redis: RedisClient) -> list[dict[str, Any]]:
        head = (await log.head(engine)).position
        known = await known_generations(engine, redis)
        return [{**msgspec.to_builtins(row), "position": at, "head": head, "live": live} for row, at, live in known]

    found = run(rows)
    if as_json:
        print_json(found)
        return
    for row in found:
        mark = "*" if row["live"] else " "
        size = f"{row['partitions']} partitions"
        click.echo(f"{mark} {row['number']:>4}  {row['state']:<9} {size}, {_progress(row)}; {row['reason']}")
    if not found:
        click.echo("there is no generation yet: the first worker builds it")


def _progress(row: dict[str, Any]) -> str:
    if row["position"] is None:
        return "its partitions are lost"
    done = 100 * row["position"] // row["head"] if row["head"] else 100
    return f"at position {row['position']:,} ({done} %)"


@generations.command()
@json_option
def prune(as_json: bool) -> None:
    """Delete every generation except the live one.

    This includes what an unfinished rebuild has written, and what was kept when the log lost events. Keys are deleted
    in small steps. Afterwards `follows undo-switch` has no generation to go back to.
    """

    async def work(engine: Engine, redis: RedisClient) -> dict[int, int]:
        async with Builder(engine, redis, QueueSettings.from_env()) as builder:
            return await builder.prune()

    deleted = run(work)
    if as_json:
        print_json({str(number): keys for number, keys in deleted.items()})
        return
    for number, keys in deleted.items():
        click.echo(f"generation {number}: {keys:,} keys deleted")
    if not deleted:
        click.echo("there was nothing to delete")


@generations.command("diff")
@click.argument("old", type=click.IntRange(min=1))
@click.argument("new", type=click.IntRange(min=1))
@json_option
def diff(old: int, new: int, as_json: bool) -> None:
    """Show the follows and profiles in which two generations differ.

    Of a kept generation OLD and the live one NEW, this is what the log has lost, and what was done since. With --json,
    it prints one object per line.
    """

    async def work(engine: Engine, redis: RedisClient) -> int:
        views = [await _whole_view(engine, redis, number) for number in (old, new)]
        count = 0
        async for difference in differences_between(redis, views[0], views[1]):
            click.echo(json_line(difference) if as_json else difference_in_words(difference, old, new))
            count += 1
        return count

    count = run(work)
    if not as_json:
        click.echo(f"{count:,} {'difference' if count == 1 else 'differences'}")


async def _whole_view(engine: Engine, redis: RedisClient, number: int) -> View:
    for known in await registered(engine, redis):
        view = View(known.number, known.partitions)
        if known.number == number and await view_position(redis, view) is not None:
            return view
    raise Invalid(f"there is no whole generation {number}: `follows generations` shows them")


def difference_in_words(difference: GenerationDifference, old: int, new: int) -> str:
    """Return a difference as one line of text."""
    match difference:
        case FollowDifference(follower, followed, was, is_):
            states = f"{_state(was)} in {old}, {_state(is_)} in {new}"
            return f"{_name(follower)} follows {_name(followed)}: {states}"
        case ProfileDifference(None, Person() as person):
            return f"{_name(person)}: only in {new}"
        case ProfileDifference(Person() as person, None):
            return f"{_name(person)}: only in {old}"
        case ProfileDifference(Person() as before, Person() as after, fields):
            name = _name(before) if before == after else f"{_name(before)} in {old}, {_name(after)} in {new}"
            return f"{name}: {', '.join(fields)}"
    raise AssertionError(difference)


def _name(person: Person) -> str:
    return f"#{person.number}" if person.id is None else f"{person.id} (#{person.number})"


def _state(state: EntryState | None) -> str:
    if state is None:
        return "not"
    return f"since {format_time(state.created_at)}{' with notifications' if state.notifications else ''}"
