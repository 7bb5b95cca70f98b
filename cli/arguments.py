"""Options, arguments and output that several commands share."""

import getpass
import json
import os
import re
from typing import Any, Final

import click
import msgspec

from cli.times import looks_like_time, parse_time
from commands.db.postgres import Engine
from commands.errors import Invalid
from commands.log import history
from commands.log.history import Moment
from commands.log.user_search import UserName

_is_position: Final = re.compile(r"\d{1,18}").fullmatch

limit_option = click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Print at most this many; 0 for all."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def user_name() -> str:
    """Return the name of the user who runs this; "uid N" where no name belongs to the number, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return f"uid {os.getuid()}"


who_option = click.option(
    "--who", "name", default=user_name, show_default="you", metavar="NAME", help="Name the person to ask."
)


async def moment(engine: Engine, text: str) -> Moment:
    """Return the moment that a POSITION|TIME argument names; raises Invalid."""
    if _is_position(text):
        return await history.moment_of_position(engine, int(text))
    if not looks_like_time(text):
        raise Invalid(f"{text[:40]!r} is neither a log position nor an RFC 3339 time with an offset")
    try:
        time = parse_time(text)
    except ValueError:
        raise Invalid(f"{text[:40]!r} is not a time") from None
    found = await history.moment_of_time(engine, time)
    if found.goes_back:
        note = f"events before position {found.position} have later times, since the clock of PostgreSQL was ahead"
        click.echo(f"note: {note}; `follows history` shows them", err=True)
    return found


def user_as_json(named: UserName) -> dict[str, Any]:
    """Return a user as a JSON object: number, id, login. A user whom the directory does not know has only a number."""
    return {"number": named.number, "id": named.id or None, "login": named.login}


def json_line(value: Any) -> str:
    """Return a value as one line of JSON."""
    return msgspec.json.encode(value).decode()


def print_json(value: Any) -> None:
    """Print a value as indented JSON, structs and times included."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2))
