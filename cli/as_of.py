"""`follows as-of`: one user's lists as they were at some moment."""

from contextlib import aclosing
from typing import Any, Final

import click

from cli.arguments import json_line, json_option, limit_option, moment, user_as_json
from cli.connect import run_on_log
from cli.parked_note import note_unreadable
from cli.times import format_time
from commands.db.postgres import Engine
from commands.log import history
from commands.log.history import Moment, PastFollow
from commands.log.user_search import UserName, find_user
from commands.users import Side

SIDE_CHOICES: Final[dict[str, tuple[Side, ...]]] = {
    "following": ("following",),
    "followers": ("followers",),
    "both": ("following", "followers"),
}
HEADINGS: Final[dict[Side, str]] = {"following": "follows", "followers": "is followed by"}


@click.command("as-of")
@click.argument("point", metavar="POSITION|TIME")
@click.argument("user", metavar="USER")
@click.option(
    "--side", type=click.Choice(list(SIDE_CHOICES)), default="both", show_default=True, help="Print this list."
)
@limit_option
@json_option
def as_of(point: str, user: str, side: str, limit: int, as_json: bool) -> None:
    """Show a user's following and followers as of a moment.

    The moment is a position of the log, or an RFC 3339 time such as 2026-03-15T10:00:00Z: the lists then hold what
    had been recorded by that time. USER is an id, a login, or '#' and a number (quoted, for the shell). The newest
    follow comes first. Users are shown with the logins they have today.
    """

    async def work(engine: Engine) -> None:
        at, named = await moment(engine, point), await find_user(engine, user)
        write = _write_json if as_json else _write_lines
        await write(engine, named, at, SIDE_CHOICES[side], limit or None)
        await note_unreadable(engine)

    run_on_log(work)


async def _write_lines(engine: Engine, named: UserName, at: Moment, sides: tuple[Side, ...], limit: int | None) -> None:
    when = "before the first event" if at.recorded_at is None else format_time(at.recorded_at)
    click.echo(f"{named} at position {at.position:,}, {when}")
    for side in sides:
        total = await history.count_follows(engine, side, named.number, at.position)
        click.echo(f"{HEADINGS[side]} {total:,}")
        async with aclosing(history.follows_of(engine, side, named.number, at.position, limit)) as follows:
            async for follow in follows:
                flag = "  notifications" if follow.notifications else ""
                click.echo(f"  {format_time(follow.created_at):<27}  {follow.other}{flag}")
        if limit is not None and total > limit:
            click.echo(f"  and {total - limit:,} more: --limit 0 shows all")


async def _write_json(engine: Engine, named: UserName, at: Moment, sides: tuple[Side, ...], limit: int | None) -> None:
    """Print one object, entry by entry, since a list may be larger than the memory."""
    recorded_at = None if at.recorded_at is None else format_time(at.recorded_at)
    head = json_line({"position": at.position, "recorded_at": recorded_at, "user": user_as_json(named)})
    click.echo(head.removesuffix("}"), nl=False)
    for side in sides:
        total = await history.count_follows(engine, side, named.number, at.position)
        click.echo(f',\n"{side}":{{"total":{total},"follows":[', nl=False)
        comma = "\n"
        async with aclosing(history.follows_of(engine, side, named.number, at.position, limit)) as follows:
            async for follow in follows:
                click.echo(comma + json_line(_follow_object(follow)), nl=False)
                comma = ",\n"
        click.echo("]}", nl=False)
    click.echo("}")


def _follow_object(follow: PastFollow) -> dict[str, Any]:
    facts = {"created_at": format_time(follow.created_at), "notifications": follow.notifications}
    return {**user_as_json(follow.other), **facts}
