"""`follows export`: follows or users as CSV or NDJSON, in the format that `follows import` reads."""

import gzip
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, get_args

import click
import msgspec

from cli.arguments import moment
from cli.connect import run_on_log
from cli.parked_note import note_unreadable
from cli.progress import Meter
from commands.db.postgres import Engine
from commands.log import event_log as log
from commands.log import export as log_export
from commands.log import user_search
from commands.log.export import FOLLOW_COLUMNS, USER_COLUMNS, ExportedUser, Format

# The fastest level that still halves a CSV: compression takes most of an export's time.
GZIP_LEVEL: Final = 3
# Often enough for a progress bar, rare enough to cost nothing.
USERS_PER_PROGRESS: Final = 1_000

_needs_quotes: Final = re.compile(r'[",\r\n]').search

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    help="Write this format.  [default: that of FILE's extension, else csv]",
)
output_option = click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    default="-",
    metavar="FILE",
    help="Write to FILE, compressed if its name ends in .gz.  [default: -, standard output]",
)


@click.group("export")
def export() -> None:
    """Write follows or users to a file.

    `follows import` reads what is written. A file gets its name when it is complete, so a killed export never leaves a
    truncated file under that name.
    """


@export.command("follows", short_help="Write all follows, now or as of a moment.")
@click.option("--as-of", "point", metavar="POSITION|TIME", help="Write the follows of this moment.  [default: now]")
@format_option
@output_option
def export_follows(point: str | None, form: Format | None, file: str) -> None:
    """Write every follow: follower, followed, created_at, notifications.

    With --as-of, the follows are those at a position of the log, or at an RFC 3339 time. Follows of users who have been
    erased since, or are missing in the directory, are left out.
    """
    form = form or _format_of(file)

    async def work(engine: Engine) -> int:
        at = (await log.head(engine)).position if point is None else (await moment(engine, point)).position
        last, count = await user_search.last_number(engine), 0
        with _open_output(file) as out, Meter("Exporting follows", "follows", last) as meter:
            if form == "csv":
                out.write(f"{','.join(FOLLOW_COLUMNS)}\n".encode())
            async with aclosing(log_export.stream_follows(engine, at, last, form)) as chunks:
                async for chunk in chunks:
                    out.writelines(chunk.lines)
                    count += chunk.follows
                    meter.reached(chunk.up_to, count)
        await note_unreadable(engine)
        return count

    _report(run_on_log(work), "follows", file)


@export.command("users", short_help="Write all users.")
@format_option
@output_option
def export_users(form: Format | None, file: str) -> None:
    """Write every user with the fields that an import reads.

    The log keeps no old profiles, so there is no --as-of here. Erased users are left out. In CSV, "" is an empty text
    and an empty cell a missing one.
    """
    form = form or _format_of(file)

    async def work(engine: Engine) -> int:
        last, count = await user_search.last_number(engine), 0
        with _open_output(file) as out, Meter("Exporting users", "users", last) as meter:
            write = _csv_writer(out) if form == "csv" else _json_writer(out)
            async with aclosing(log_export.stream_users(engine)) as found:
                async for user in found:
                    write(user_fields(user))
                    count += 1
                    if count % USERS_PER_PROGRESS == 0:
                        meter.reached(user.number, count)
        return count

    _report(run_on_log(work), "users", file)


def user_fields(user: ExportedUser) -> dict[str, Any]:
    """Return a user's fields as an import reads them, without those that are null."""
    fields = {"id": user.id, "username": user.login, "display_name": user.display_name}
    profile = {name: value for name, value in msgspec.json.decode(user.profile).items() if name in USER_COLUMNS}
    return {name: value for name, value in {**profile, **fields}.items() if value is not None}


def _json_writer(out: BinaryIO) -> Callable[[dict[str, Any]], None]:
    def write(fields: dict[str, Any]) -> None:
        ordered = {name: fields[name] for name in USER_COLUMNS if name in fields}
        out.write(msgspec.json.encode(ordered) + b"\n")

    return write


def _csv_writer(out: BinaryIO) -> Callable[[dict[str, Any]], None]:
    def write(fields: dict[str, Any]) -> None:
        out.write(f"{','.join(csv_cell(fields.get(name)) for name in USER_COLUMNS)}\n".encode())

    write({name: name for name in USER_COLUMNS})
    return write


def csv_cell(value: str | int | bool | None) -> str:
    """Return a value as a cell: nothing for None, and in quotes the empty text and all that a reader might change."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value).lower()
    if value and value == value.strip() and not _needs_quotes(value):
        return value
    return '"' + value.replace('"', '""') + '"'


def _format_of(file: str) -> Format:
    name = file.lower().removesuffix(".gz")
    return "ndjson" if name.endswith((".ndjson", ".jsonl", ".json")) else "csv"


@contextmanager
def _open_output(file: str) -> Iterator[BinaryIO]:
    """Open FILE for writing under a temporary name; rename it when the block has ended without an error."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as plain:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile(path.name.removesuffix(".gz"), "wb", GZIP_LEVEL, plain) as packed:
                    yield packed  # type: ignore[misc]
            else:
                yield plain
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _report(count: int, unit: str, file: str) -> None:
    if file != "-":
        click.echo(f"wrote {count:,} {unit} to {file}", err=True)
