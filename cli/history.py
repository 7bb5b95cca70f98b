"""`follows history`: one user's events, oldest first."""

from contextlib import aclosing

import click

from cli.arguments import json_line, json_option, limit_option, moment, user_as_json
from cli.connect import run_on_log
from cli.times import format_time
from commands.db.postgres import Engine
from commands.events import Unreadable, read_event
from commands.log.event_log import head
from commands.log.history import PastEvent, events_of
from commands.log.user_search import find_user

# Types whose words do not depend on the event's data or on which side the user is.
OWN_EVENTS = {
    "UserRegistered": "was registered",
    "ProfileChanged": "changed the profile",
    "UserErased": "was erased",
    "BroadcastEnded": "ended the broadcast",
}


@click.command()
@click.argument("user", metavar="USER")
@click.option("--with", "other", metavar="OTHER", help="Print only events between USER and OTHER.")
@click.option("--since", metavar="POSITION|TIME", help="Print only events after this moment.")
@click.option("--until", metavar="POSITION|TIME", help="Print only events up to and including this moment.")
@limit_option
@json_option
def history(user: str, other: str | None, since: str | None, until: str | None, limit: int, as_json: bool) -> None:
    """Show a user's events.

    The oldest event comes first; when there are more than the limit, only the last ones are printed. USER and OTHER
    are an id, a login, or '#' and a number (quoted, for the shell). TIME is RFC 3339, such as 2026-03-15T10:00:00Z.
    Users are shown with the logins they have today. With --json, each line is one object.
    """

    async def work(engine: Engine) -> None:
        named = await find_user(engine, user)
        with_ = None if other is None else (await find_user(engine, other)).number
        after = 0 if since is None else (await moment(engine, since)).position
        up_to = (await head(engine)).position if until is None else (await moment(engine, until)).position
        count = 0
        found = events_of(engine, named.number, other=with_, after=after, up_to=up_to, limit=limit or None)
        async with aclosing(found) as events:
            async for happened in events:
                count += 1
                click.echo(json_line(event_object(happened)) if as_json else event_line(happened, named.number))
        if limit and count == limit and not as_json:
            click.echo(f"(the last {limit:,}; --limit 0 shows all)", err=True)

    run_on_log(work)


def event_object(happened: PastEvent) -> dict[str, object]:
    """Return an event as a JSON object."""
    return {
        "position": happened.position,
        "recorded_at": format_time(happened.recorded_at),
        "type": happened.type,
        "subject": user_as_json(happened.subject),
        "object": user_as_json(happened.object),
        "data": happened.data,
    }


def event_line(happened: PastEvent, number: int) -> str:
    """Return an event in words whose subject is the user with ``number``."""
    return f"{happened.position:>10,}  {format_time(happened.recorded_at):<27}  {_words(happened, number)}"


def _words(happened: PastEvent, number: int) -> str:
    data = happened.data
    if isinstance(read_event(happened.type, json_line(data)), Unreadable):
        return f"{happened.type}, which this version cannot read"
    since = data.get("created_at")
    began = f", since {format_time(since)}" if isinstance(since, int) else ""
    flag = "on" if data.get("notifications") else "off"
    subject, followed = happened.subject, happened.object
    is_subject = subject.number == number
    match happened.type:
        case "UserFollowed":
            noted = ", notifications on" if data.get("notifications") else ""
            return (f"followed {followed}" if is_subject else f"was followed by {subject}") + began + noted
        case "UserUnfollowed":
            return f"no longer follows {followed}" if is_subject else f"is no longer followed by {subject}"
        case "NotificationsChanged":
            turned = f"turned notifications {flag} for"
            return f"{turned} {followed}" if is_subject else f"{subject} {turned} them"
        case "BroadcastStarted":
            return f"went live, {data.get('viewers', 0):,} viewers"
        case "BroadcastChanged":
            return f"changed the broadcast, {data.get('viewers', 0):,} viewers"
        case type_:
            return OWN_EVENTS.get(type_, type_)
