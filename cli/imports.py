"""`follows import`: users and follows from a file into the log, in batches and in constant memory."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

import click
import msgspec

from cli.connect import run_on_log
from cli.errors import plain_database_errors, without_log_lines
from cli.import_files import ImportFile, open_import
from cli.import_rows import follow_rows, user_rows
from cli.import_run import Tally, outcomes
from cli.progress import LINE_EVERY_S, Meter
from commands.bulk_follows import (
    IMPORT_BATCH,
    BadLine,
    ImportConnection,
    ImportedFollow,
    ImportResult,
    connect_import,
    import_follows,
)
from commands.bulk_users import ImportedUser, import_users
from commands.db.postgres import Engine, PostgresSettings
from commands.db.schema import check_current
from commands.errors import SettingsError
from commands.log.export import USER_COLUMNS
from projections.signals.job_queue import QueueSettings
from projections.signals.wakeups import Wakeup

RESUME_ADVICE: Final = "; added lines stay, and running the import again adds the rest"

_Row = TypeVar("_Row", ImportedFollow, ImportedUser)

file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
strict_option = click.option("--strict", is_flag=True, help="Stop at the first bad line.")
url_option = click.option("--database-url", metavar="URL", help="Import into this database.  [DATABASE_URL]")

USERS_HELP: Final = f"""Add the users of FILE and change those that differ.

Columns or keys: id, and any of {", ".join(USER_COLUMNS[1:])}.

A field that is missing, or an empty cell in CSV, leaves the user's value unchanged; null in NDJSON clears it. "" in CSV
is the empty text, for fields that may be empty. A user without a username gets one made of the id. An erased user stays
erased.
"""


class ImportSettings(msgspec.Struct, frozen=True):
    """Lines in a batch, and the seconds between two lines of progress; a caller's click context may hold others."""

    batch_size: int = IMPORT_BATCH
    progress_every_s: float = LINE_EVERY_S


@click.group()
def imports() -> None:
    """Import users or follows from a file.

    FILE is CSV whose first line names the columns, or NDJSON, either of them plain or .gz; - is standard input.
    Everything is appended to the log in large batches; running an import twice changes nothing.
    """


@imports.command("follows", short_help="Import the follows of a file.")
@file_argument
@click.option("--create-users", is_flag=True, help="Register unknown users instead of refusing the line.")
@strict_option
@url_option
def import_follows_file(file: str, create_users: bool, strict: bool, database_url: str | None) -> None:
    """Add the follows of FILE that do not exist yet.

    \b
    Columns or keys:
      follower, followed  user ids
      created_at          RFC 3339 with an offset, as in
                          2026-03-15T10:00:00.25Z, or a whole number of
                          microseconds since 1970  [default: now]
      notifications       true, false, 1 or 0  [default: false]
    """

    def append(opened_bulk: ImportConnection, rows: list[ImportedFollow]) -> ImportResult:
        return import_follows(opened_bulk, rows, create_users=create_users, strict=strict)

    _import("follows", file, follow_rows, append, strict, _settings(database_url))


@imports.command("users", short_help="Import the users of a file.", help=USERS_HELP)
@file_argument
@strict_option
@url_option
def import_users_file(file: str, strict: bool, database_url: str | None) -> None:
    def append(opened_bulk: ImportConnection, rows: list[ImportedUser]) -> ImportResult:
        return import_users(opened_bulk, rows, strict=strict)

    _import("users", file, user_rows, append, strict, _settings(database_url))


def _settings(database_url: str | None) -> PostgresSettings:
    without_log_lines()
    if database_url:
        os.environ.pop("DATABASE_URL_FILE", None)
        os.environ["DATABASE_URL"] = database_url
    return PostgresSettings.from_env()


def _import(
    unit: str,
    file: str,
    read: Callable[[ImportFile], Iterator[_Row | BadLine]],
    append: Callable[[ImportConnection, list[_Row]], ImportResult],
    strict: bool,
    settings: PostgresSettings,
) -> None:
    """Import a file. Raises ClickException when it stopped early or no line was usable."""
    sizes = click.get_current_context().find_object(ImportSettings) or ImportSettings()
    run_on_log(check_current)
    with plain_database_errors(RESUME_ADVICE), open_import(file) as source, connect_import(settings) as connection:
        meter = Meter(f"Importing {unit}", unit, source.size, line_every_s=sizes.progress_every_s)
        tally = Tally(unit)
        try:
            with meter:
                for outcome in outcomes(read(source), lambda rows: append(connection, rows), strict, sizes.batch_size):
                    tally.take(outcome, meter.say)
                    meter.reached(source.reader.count, tally.read)
        finally:
            click.echo(tally.summary(meter.seconds))
            if tally.position is not None:
                _wake(tally.position)
    tally.judge(file, strict)


def _wake(position: int) -> None:
    """Wake the workers, where a queue is configured; without it they find the events within a second."""

    async def work(engine: Engine) -> None:
        await queue.learn_names(engine)
        wakeup = Wakeup(queue)
        wakeup.send(position)
        await wakeup.close()

    with suppress(SettingsError):
        queue = QueueSettings.from_env()
        run_on_log(work)
