"""`follows as-of`: whom a user followed at some moment, and who followed him."""

from contextlib import aclosing
from typing import Any, Final

import click

from cli.points import json_option, limit_option, line_of, moment, on_log, shown_time, shown_user, user
from commands import history
from commands.census import Named
from commands.folds import Side
from commands.history import Follow, Moment
from commands.postgres import Engine

SIDES: Final[dict[str, tuple[Side, ...]]] = {
    "following": ("following",),
    "followers": ("followers",),
    "both": ("following", "followers"),
}
HEADINGS: Final[dict[Side, str]] = {"following": "follows", "followers": "is followed by"}


@click.command("as-of")
@click.argument("point", metavar="POSITION|TIME")
@click.argument("who", metavar="USER")
@click.option("--side", type=click.Choice(list(SIDES)), default="both", show_default=True, help="Which list.")
@limit_option
@json_option
def as_of(point: str, who: str, side: str, limit: int, as_json: bool) -> None:
    """Show whom a user followed at some moment, and who followed him.

    The moment is a position of the log, or an RFC 3339 time such as 2026-03-15T10:00:00Z: then what had been
    recorded by that time counts. USER is an id, a login, or '#' and a number (in quotes, for the shell). Newest
    first. Names are those of today.
    """

    async def work(engine: Engine) -> None:
        at, named = await moment(engine, point), await user(engine, who)
        write = _write_json if as_json else _write_lines
        await write(engine, named, at, SIDES[side], limit or None)

    on_log(work)


async def _write_lines(engine: Engine, named: Named, at: Moment, sides: tuple[Side, ...], limit: int | None) -> None:
    when = "before the first event" if at.recorded_at is None else shown_time(at.recorded_at)
    click.echo(f"{named} at position {at.position:,}, {when}")
    for side in sides:
        total = await history.count_follows(engine, side, named.number, at.position)
        click.echo(f"{HEADINGS[side]} {total:,}")
        async with aclosing(history.follows_of(engine, side, named.number, at.position, limit)) as follows:
            async for follow in follows:
                flag = "  notifications" if follow.notifications else ""
                click.echo(f"  {shown_time(follow.created_at):<27}  {follow.other}{flag}")
        if limit is not None and total > limit:
            click.echo(f"  and {total - limit:,} more: --limit 0 shows all")


async def _write_json(engine: Engine, named: Named, at: Moment, sides: tuple[Side, ...], limit: int | None) -> None:
    """One object, written as it comes, since a list may be longer than the memory."""
    recorded_at = None if at.recorded_at is None else shown_time(at.recorded_at)
    head = line_of({"position": at.position, "recorded_at": recorded_at, "user": shown_user(named)})
    click.echo(head.removesuffix("}"), nl=False)
    for side in sides:
        total = await history.count_follows(engine, side, named.number, at.position)
        click.echo(f',\n"{side}":{{"total":{total},"follows":[', nl=False)
        comma = "\n"
        async with aclosing(history.follows_of(engine, side, named.number, at.position, limit)) as follows:
            async for follow in follows:
                click.echo(comma + line_of(_shown(follow)), nl=False)
                comma = ",\n"
        click.echo("]}", nl=False)
    click.echo("}")


def _shown(follow: Follow) -> dict[str, Any]:
    facts = {"created_at": shown_time(follow.created_at), "notifications": follow.notifications}
    return {**shown_user(follow.other), **facts}
