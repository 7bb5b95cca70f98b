"""`follows import`: users and follows out of a file into the log, in batches, with memory flat for any size."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

import click

from cli.errors import plain_database_errors, without_log_lines
from cli.import_files import Source, opened
from cli.import_rows import USER_COLUMNS, follow_rows, user_rows
from cli.import_run import Tally, outcomes
from cli.progress import Meter
from commands.bulk import BadLine, Bulk, FollowRow, Outcome, bulk, import_follows
from commands.bulk_users import UserRow, import_users
from commands.errors import SettingsError
from commands.migrate import check_current
from commands.postgres import PostgresSettings, check_durability, create_engine
from projections.wakeup import QueueSettings, Wakeup

AGAIN: Final = "; what was added stays, and running the import again adds the rest"

Row = TypeVar("Row", FollowRow, UserRow)

file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
strict_option = click.option("--strict", is_flag=True, help="Stop at the first bad line.")
url_option = click.option("--database-url", metavar="URL", help="Where the log is.  [DATABASE_URL]")

USERS_HELP: Final = f"""Add the users of FILE and change those that differ.

Columns or keys: id, and any of {", ".join(USER_COLUMNS[1:])}.

A field that is left out stays as it is, and so does one with an empty cell in CSV; null in NDJSON clears it.
Who brings no username gets one made of the id. An erased user stays erased.
"""


@click.group()
def imports() -> None:
    """Read users or follows from a file.

    FILE is CSV with a line of column names, or NDJSON; it may be packed as .gz, and - is standard input.
    Everything goes through the log, in large batches; running an import twice changes nothing.
    """


@imports.command(short_help="Add the follows of a file.")
@file_argument
@click.option("--create-users", is_flag=True, help="Register users that do not exist instead of refusing the line.")
@strict_option
@url_option
def follows(file: str, create_users: bool, strict: bool, database_url: str | None) -> None:
    """Add the follows of FILE that are not there yet.

    \b
    Columns or keys:
      follower, followed  user ids
      created_at          when it began: RFC 3339 with an offset, as in
                          2026-03-15T10:00:00.25Z, or a whole number of
                          microseconds since 1970; left out, it begins now
      notifications       true, false, 1 or 0; false when left out
    """

    def append(opened_bulk: Bulk, rows: list[FollowRow]) -> Outcome:
        return import_follows(opened_bulk, rows, create_users=create_users, strict=strict)

    _import("follows", file, follow_rows, append, strict, _settings(database_url))


@imports.command(short_help="Add or change the users of a file.", help=USERS_HELP)
@file_argument
@strict_option
@url_option
def users(file: str, strict: bool, database_url: str | None) -> None:
    def append(opened_bulk: Bulk, rows: list[UserRow]) -> Outcome:
        return import_users(opened_bulk, rows, strict=strict)

    _import("users", file, user_rows, append, strict, _settings(database_url))


def _settings(database_url: str | None) -> PostgresSettings:
    without_log_lines()
    if database_url:
        os.environ["DATABASE_URL"] = database_url
    return PostgresSettings.from_env()


def _import(
    unit: str,
    file: str,
    read: Callable[[Source], Iterator[Row | BadLine]],
    append: Callable[[Bulk, list[Row]], Outcome],
    strict: bool,
    settings: PostgresSettings,
) -> None:
    """Run an import to its end; raises ClickException when it stopped early or nothing of the file could be used."""
    with plain_database_errors():
        asyncio.run(_check(settings))
    with plain_database_errors(AGAIN), opened(file) as source, bulk(settings) as connection:
        meter = Meter(f"Importing {unit}", unit, source.total)
        tally = Tally(unit)
        try:
            with meter:
                for outcome in outcomes(read(source), lambda rows: append(connection, rows), strict):
                    tally.take(outcome, meter.say)
                    meter.reached(source.counted.count, tally.read)
        finally:
            click.echo(tally.summary(meter.seconds))
            asyncio.run(_wake(tally.position))
    tally.judge(file, strict)


async def _check(settings: PostgresSettings) -> None:
    engine = create_engine(settings)
    try:
        await check_durability(engine, settings)
        await check_current(engine)
    finally:
        await engine.dispose()


async def _wake(position: int | None) -> None:
    """Tell the workers, where a queue is known; they look by themselves each second anyway."""
    if position is not None:
        with suppress(SettingsError):
            wakeup = Wakeup(QueueSettings.from_env())
            wakeup.send(position)
            await wakeup.close()
