"""What the tools that look back read from the command line: a moment of the log, and a user."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import click
import msgspec

from cli.errors import plain_database_errors
from commands import census, history
from commands.census import Named
from commands.errors import Invalid
from commands.history import Moment
from commands.postgres import Engine, PostgresSettings, create_engine

T = TypeVar("T")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# msgspec reads what this matches; by itself it takes times without an offset, too.
_is_time: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)").fullmatch
_is_position: Final = re.compile(r"\d{1,18}").fullmatch

limit_option = click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="At most so many; 0 for all."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def on_log(work: Callable[[Engine], Awaitable[T]]) -> T:
    """Run ``work`` on the log; a server that is down ends the command in one line."""

    async def opened() -> T:
        engine = create_engine(PostgresSettings.from_env())
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    with plain_database_errors():
        return asyncio.run(opened())


async def moment(engine: Engine, text: str) -> Moment:
    """The moment that POSITION or TIME names; raises Invalid."""
    if _is_position(text):
        return await history.moment_of_position(engine, int(text))
    if not _is_time(text):
        raise Invalid(f"{text[:40]!r} is neither a log position nor an RFC 3339 time with an offset")
    try:
        time = (msgspec.convert(text, datetime) - EPOCH) // timedelta(microseconds=1)
    except (msgspec.ValidationError, OverflowError):
        raise Invalid(f"{text[:40]!r} is no time") from None
    return await history.moment_of_time(engine, time)


async def user(engine: Engine, text: str) -> Named:
    """The user with this id, login or #number; raises UserNotFound or Invalid."""
    return await census.find(engine, text)


def shown_time(microseconds: int) -> str:
    """A time as people read it and `moment` takes it, exact to the microsecond."""
    time = EPOCH + timedelta(microseconds=microseconds)
    return f"{time:%Y-%m-%dT%H:%M:%S}" + (f".{time.microsecond:06}" if time.microsecond else "") + "Z"


def shown_user(named: Named) -> dict[str, Any]:
    """A user in JSON."""
    return {"number": named.number, "id": named.id, "login": named.login}


def line_of(value: Any) -> str:
    """A value as one line of JSON."""
    return msgspec.json.encode(value).decode()
