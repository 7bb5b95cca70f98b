"""`follows export`: follows or users as CSV or NDJSON, in the form that `follows import` reads."""

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, get_args

import click
import msgspec

from cli.points import moment, on_log
from cli.progress import Meter
from commands import census, exports, log
from commands.exports import FOLLOW_COLUMNS, USER_COLUMNS, ExportedUser, Format
from commands.postgres import Engine

# The fastest that still halves a CSV: packing is what such an export mostly waits for.
GZIP_LEVEL: Final = 3
USERS_IN_A_ROW: Final = 1_000

format_option = click.option(
    "--format", "form", type=click.Choice(get_args(Format)), help="By FILE's name if that tells, else csv."
)
output_option = click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    default="-",
    metavar="FILE",
    help="Where to; packed if it ends in .gz. Standard output if left out, or -.",
)


@click.group("export")
def export() -> None:
    """Write follows or users to a file.

    What is written can be read by `follows import`. A file has its name only when it is complete, so an export that
    was killed leaves none that looks whole.
    """


@export.command(short_help="Write the follows as they are, or were at some moment.")
@click.option("--as-of", "point", metavar="POSITION|TIME", help="As they were then; as they are now if left out.")
@format_option
@output_option
def follows(point: str | None, form: Format | None, file: str) -> None:
    """Write every follow: follower, followed, created_at, notifications.

    With --as-of, as they were at a position of the log, or at an RFC 3339 time. The follows of users who are erased by
    now are left out, also from the past.
    """
    form = form or _form_of(file)

    async def work(engine: Engine) -> int:
        at = (await log.head(engine)).position if point is None else (await moment(engine, point)).position
        last, count = await census.last_number(engine), 0
        with _opened(file) as out, Meter("Exporting follows", "follows", last) as meter:
            if form == "csv":
                out.write(f"{','.join(FOLLOW_COLUMNS)}\n".encode())
            async with aclosing(exports.follows(engine, at, last, form)) as chunks:
                async for chunk in chunks:
                    out.writelines(chunk.lines)
                    count += chunk.follows
                    meter.reached(chunk.up_to, count)
        return count

    _tell(on_log(work), "follows", file)


@export.command(short_help="Write the users as they are.")
@format_option
@output_option
def users(form: Format | None, file: str) -> None:
    """Write every user with the fields that an import takes.

    Users as they are now: the log keeps no old profiles, so there is no --as-of here. Who is erased is left out. CSV
    cannot tell an empty text from none; NDJSON gives back exactly what there is.
    """
    form = form or _form_of(file)

    async def work(engine: Engine) -> int:
        last, count = await census.last_number(engine), 0
        with _opened(file) as out, Meter("Exporting users", "users", last) as meter:
            write = _csv_writer(out) if form == "csv" else _json_writer(out)
            async with aclosing(exports.users(engine)) as found:
                async for user in found:
                    write(fields_of(user))
                    count += 1
                    if count % USERS_IN_A_ROW == 0:
                        meter.reached(user.number, count)
        return count

    _tell(on_log(work), "users", file)


def fields_of(user: ExportedUser) -> dict[str, Any]:
    """A user as an import reads him, without what is blank."""
    fields = {"id": user.id, "username": user.login, "display_name": user.display_name}
    profile = {name: value for name, value in msgspec.json.decode(user.profile).items() if name in USER_COLUMNS}
    return {name: value for name, value in {**profile, **fields}.items() if value is not None}


def _json_writer(out: BinaryIO) -> Callable[[dict[str, Any]], None]:
    def write(fields: dict[str, Any]) -> None:
        ordered = {name: fields[name] for name in USER_COLUMNS if name in fields}
        out.write(msgspec.json.encode(ordered) + b"\n")

    return write


def _csv_writer(out: BinaryIO) -> Callable[[dict[str, Any]], None]:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")

    def write_row(cells: list[Any]) -> None:
        rows.writerow(cells)
        out.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()

    def write(fields: dict[str, Any]) -> None:
        cells = (fields.get(name, "") for name in USER_COLUMNS)
        write_row([str(cell).lower() if isinstance(cell, bool) else cell for cell in cells])

    write_row(list(USER_COLUMNS))
    return write


def _form_of(file: str) -> Format:
    name = file.lower().removesuffix(".gz")
    return "ndjson" if name.endswith((".ndjson", ".jsonl", ".json")) else "csv"


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    """Open FILE under another name, which it changes for its own when all is written."""
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


def _tell(count: int, unit: str, file: str) -> None:
    if file != "-":
        click.echo(f"wrote {count:,} {unit} to {file}", err=True)
