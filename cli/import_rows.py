"""What the lines of an imported file say: rows for the bulk import, and for each line that says nothing why not."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import click
import msgspec

from cli.import_files import Line, Record, Source, csv_records, lines, too_long
from commands.bulk import BadLine, FollowRow, shown
from commands.bulk_users import UserRow
from commands.users import UserChanges

T = TypeVar("T")
# Follower, followed, and created_at and notifications as they stand in the file.
_Follow = tuple[str, str, str | int | None, str | int | bool | None]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# 1973: a whole number below is seconds or milliseconds, which would otherwise pass for a time just after 1970.
MICROSECONDS_MIN: Final = 10**14
# Clocks differ; a follow from a later day than tomorrow would head every list for as long as it takes.
FUTURE_MAX_US: Final = 24 * 3600 * 10**6
FLAGS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False, "": False}

# msgspec reads what this matches; by itself it takes times without an offset, too.
_is_time: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)").fullmatch
_is_whole: Final = re.compile(r"-?\d{1,18}").fullmatch


class FollowLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line of NDJSON; ids may be numbers there."""

    follower: str | int
    followed: str | int
    created_at: str | int | None = None
    notifications: str | int | bool | None = None


FOLLOW_COLUMNS: Final = FollowLine.__struct_fields__
USER_COLUMNS: Final = ("id", *UserChanges.__struct_fields__)


def follow_rows(source: Source) -> Iterator[FollowRow | BadLine]:
    """Read follows: ids as they stand, times and flags checked."""
    latest = int(time.time() * 1_000_000) + FUTURE_MAX_US
    found = _json_follows(source) if source.is_json else _csv_follows(source)
    for number, line in found:
        if isinstance(line, str):
            yield BadLine(number, line)
            continue
        follower, followed, created_at, notifications = line
        try:
            created_at_us = read_time(created_at, latest) if created_at else None
            flag = read_flag(notifications) if notifications else False
        except ValueError as error:
            yield BadLine(number, str(error))
        else:
            yield FollowRow(number, follower, followed, created_at_us, flag)


def _json_follows(source: Source) -> Iterator[tuple[int, _Follow | str]]:
    for number, line in _json_lines(lines(source.text), msgspec.json.Decoder(FollowLine).decode):
        if isinstance(line, str):
            yield number, line
        else:
            yield number, (str(line.follower), str(line.followed), line.created_at, line.notifications)


def _csv_follows(source: Source) -> Iterator[tuple[int, _Follow | str]]:
    columns, records = _table(lines(source.text), FOLLOW_COLUMNS, ("follower", "followed"))
    absent = len(columns)
    places = [columns.index(name) if name in columns else absent for name in FOLLOW_COLUMNS]
    follower, followed, created_at, notifications = places
    for number, fields in records:
        if isinstance(fields, str):
            yield number, fields
        else:
            cells = [field.strip() for field in fields]
            cells.append("")  # what a column that is absent holds
            yield number, (cells[follower], cells[followed], cells[created_at], cells[notifications])


def user_rows(source: Source) -> Iterator[UserRow | BadLine]:
    """Read users. In a CSV an empty cell says nothing, so that only NDJSON (null) can clear a field."""
    for number, fields in _user_fields(source):
        if isinstance(fields, str):
            yield BadLine(number, fields)
            continue
        id_ = fields.pop("id", None)
        try:
            changes = msgspec.convert(fields, UserChanges, strict=source.is_json)
        except ValueError as error:
            yield BadLine(number, _words(error))
            continue
        if isinstance(id_, str) or (isinstance(id_, int) and not isinstance(id_, bool)):
            yield UserRow(number, str(id_), changes)
        else:
            yield BadLine(number, "id is missing" if id_ is None else "id must be a string or a whole number")


def _user_fields(source: Source) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if source.is_json:
        yield from _json_lines(lines(source.text), msgspec.json.Decoder(dict[str, Any]).decode)
        return
    columns, records = _table(lines(source.text), USER_COLUMNS, ("id",))
    for number, fields in records:
        if isinstance(fields, str):
            yield number, fields
        else:
            yield number, {name: field for name, field in zip(columns, fields, strict=True) if field}


def _json_lines(numbered: Iterator[Line], decode: Callable[[str], T]) -> Iterator[tuple[int, T | str]]:
    """Give each line decoded, or why it cannot be. Leaves blank lines out."""
    for number, text in numbered:
        if text is None:
            yield number, too_long
        elif not text.isspace():
            try:
                yield number, decode(text)
            except ValueError as error:
                yield number, _words(error)


def _table(
    numbered: Iterator[Line], known: tuple[str, ...], needed: tuple[str, ...]
) -> tuple[list[str], Iterator[Record]]:
    """Give (columns, records of that width); a first line that does not name columns we know spoils the whole file."""
    records = csv_records(numbered)
    _, header = next(records, (1, ""))
    columns = [name.strip().lower() for name in header] if isinstance(header, list) else []
    if missing := [name for name in needed if name not in columns]:
        raise click.ClickException(f"the first line must name the columns, and does not name {', '.join(missing)}")
    if unknown := [name for name in columns if name not in known]:
        raise click.ClickException(f"unknown column {shown(unknown[0])}; known are: {', '.join(known)}")
    if len(set(columns)) < len(columns):
        raise click.ClickException("the first line names a column twice")
    return columns, (_of_width(record, len(columns)) for record in records)


def _of_width(record: Record, width: int) -> Record:
    number, fields = record
    if isinstance(fields, list) and len(fields) != width:
        return number, f"{width} columns expected, {len(fields)} found"
    return record


def read_time(value: str | int | None, latest: int) -> int | None:
    """Give us since 1970 of an RFC 3339 time or a whole number of us; None for nothing. Raises ValueError."""
    if value is None or value == "":
        return None
    if isinstance(value, int) or _is_whole(value):
        microseconds = int(value)
        if microseconds < MICROSECONDS_MIN:
            raise ValueError("created_at as a number must be microseconds since 1970")
    elif _is_time(value):
        try:
            microseconds = (msgspec.convert(value, datetime) - EPOCH) // timedelta(microseconds=1)
        except (msgspec.ValidationError, OverflowError):
            raise ValueError(f"created_at {shown(value)} is no time") from None
    else:
        raise ValueError(f"created_at {shown(value)} is neither RFC 3339 with an offset nor microseconds")
    if not 0 <= microseconds <= latest:
        raise ValueError(f"created_at {shown(str(value))} is {'in the future' if microseconds > 0 else 'before 1970'}")
    return microseconds


def read_flag(value: str | int | bool | None) -> bool:
    """Give what true, false, 1, 0 or nothing says. Raises ValueError."""
    flag = FLAGS.get(("" if value is None else str(value)).lower())
    if flag is None:
        raise ValueError(f"notifications {shown(str(value))} is neither true nor false")
    return flag


def _words(error: ValueError) -> str:
    """What is wrong, without the decoder's own signs."""
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    message, _, place = str(error).partition(" - at `$.")
    return f"{place.rstrip('`')}: {message}" if place else message
