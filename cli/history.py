"""`follows history`: what has happened to a user, in his events' own words."""

from contextlib import aclosing

import click

from cli.points import json_option, limit_option, line_of, moment, on_log, shown_time, shown_user, user
from commands.history import Happened, events_of
from commands.log import head
from commands.postgres import Engine


@click.command()
@click.argument("who", metavar="USER")
@click.option("--with", "other", metavar="OTHER", help="Only what has been between the two.")
@click.option("--since", metavar="POSITION|TIME", help="Only what came after it.")
@click.option("--until", metavar="POSITION|TIME", help="Only what came before it, itself included.")
@limit_option
@json_option
def history(who: str, other: str | None, since: str | None, until: str | None, limit: int, as_json: bool) -> None:
    """Show what has happened to a user.

    His events come oldest first, and only the last of them if there are more than the limit. USER and OTHER are an
    id, a login, or '#' and a number (in quotes, for the shell). TIME is RFC 3339, such as 2026-03-15T10:00:00Z. Names
    are those of today. With --json, one object a line.
    """

    async def work(engine: Engine) -> None:
        named = await user(engine, who)
        with_ = None if other is None else (await user(engine, other)).number
        after = 0 if since is None else (await moment(engine, since)).position
        up_to = (await head(engine)).position if until is None else (await moment(engine, until)).position
        count = 0
        found = events_of(engine, named.number, other=with_, after=after, up_to=up_to, limit=limit or None)
        async with aclosing(found) as events:
            async for happened in events:
                count += 1
                click.echo(line_of(as_object(happened)) if as_json else as_line(happened, named.number))
        if limit and count == limit and not as_json:
            click.echo(f"(the last {limit:,}; --limit 0 shows all)", err=True)

    on_log(work)


def as_object(happened: Happened) -> dict[str, object]:
    """An event in JSON."""
    return {
        "position": happened.position,
        "recorded_at": shown_time(happened.recorded_at),
        "type": happened.type,
        "subject": shown_user(happened.subject),
        "object": shown_user(happened.object),
        "data": happened.data,
    }


def as_line(happened: Happened, number: int) -> str:
    """An event as the user with ``number`` would tell it."""
    return f"{happened.position:>10,}  {shown_time(happened.recorded_at):<27}  {_words(happened, number)}"


def _words(happened: Happened, number: int) -> str:
    data = happened.data
    since = data.get("created_at")
    began = f", since {shown_time(since)}" if isinstance(since, int) else ""
    flag = "on" if data.get("notifications") else "off"
    by, to = happened.subject, happened.object
    his = by.number == number
    match happened.type:
        case "UserFollowed":
            noted = ", notifications on" if data.get("notifications") else ""
            return (f"followed {to}" if his else f"was followed by {by}") + began + noted
        case "UserUnfollowed":
            return f"no longer follows {to}" if his else f"is no longer followed by {by}"
        case "NotificationsChanged":
            return f"turned notifications {flag} for {to}" if his else f"{by} turned notifications {flag} for him"
        case "BroadcastStarted":
            return f"went live, {data.get('viewers', 0):,} viewers"
        case "BroadcastChanged":
            return f"changed the broadcast, {data.get('viewers', 0):,} viewers"
        case type_:
            return _OWN.get(type_, type_)


_OWN = {
    "UserRegistered": "was registered",
    "ProfileChanged": "changed the profile",
    "UserErased": "was erased",
    "BroadcastEnded": "ended the broadcast",
}
