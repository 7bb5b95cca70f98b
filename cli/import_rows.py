"""The lines of an imported file as rows of the bulk import, or the reason why a line is bad."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import click
import msgspec

from cli.import_files import TOO_LONG, ImportFile, Line, Record, csv_records, lines
from cli.times import looks_like_time, parse_time
from commands.bulk_follows import BadLine, ImportedFollow, shown
from commands.bulk_users import ImportedUser
from commands.log.export import FOLLOW_COLUMNS, USER_COLUMNS
from commands.users import UserChanges

_T = TypeVar("_T")
# Follower and followed, then created_at and notifications as in the file.
_Follow = tuple[str, str, str | int | None, str | int | bool | None]

# 1973: a smaller whole number is seconds or milliseconds, and would be read as a time just after 1970.
MICROSECONDS_MIN: Final = 10**14
# Clocks differ by less than a day; a follow from a later time would stay at the top of every list until then.
FUTURE_MAX_US: Final = 24 * 3600 * 10**6
NOTIFICATION_VALUES: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False, "": False}


def _may_be_empty(column: str) -> bool:
    """Return whether a user may have the empty text in this column; in the others it stands for no value."""
    try:
        msgspec.convert({column: ""}, UserChanges, strict=False)
    except ValueError:
        return False
    return True


MAY_BE_EMPTY: Final = frozenset(filter(_may_be_empty, USER_COLUMNS))

_is_whole: Final = re.compile(r"-?\d{1,18}").fullmatch


class FollowLine(msgspec.Struct, forbid_unknown_fields=True):
    """A line of NDJSON, where ids may also be numbers. Its fields are ``FOLLOW_COLUMNS``."""

    follower: str | int
    followed: str | int
    created_at: str | int | None = None
    notifications: str | int | bool | None = None


def follow_rows(source: ImportFile) -> Iterator[ImportedFollow | BadLine]:
    """Read follows. Times and flags are checked here, ids later."""
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
            yield ImportedFollow(number, follower, followed, created_at_us, flag)


def _json_follows(source: ImportFile) -> Iterator[tuple[int, _Follow | str]]:
    for number, line in _json_lines(lines(source.text), msgspec.json.Decoder(FollowLine).decode):
        if isinstance(line, str):
            yield number, line
        else:
            yield number, (str(line.follower), str(line.followed), line.created_at, line.notifications)


def _csv_follows(source: ImportFile) -> Iterator[tuple[int, _Follow | str]]:
    columns, records = _table(lines(source.text), FOLLOW_COLUMNS, ("follower", "followed"))
    absent = len(columns)
    places = [columns.index(name) if name in columns else absent for name in FOLLOW_COLUMNS]
    follower, followed, created_at, notifications = places
    for number, fields in records:
        if isinstance(fields, str):
            yield number, fields
        else:
            cells = [field.strip() if field else "" for field in fields]
            cells.append("")  # the value of columns that the file does not have
            yield number, (cells[follower], cells[followed], cells[created_at], cells[notifications])


def user_rows(source: ImportFile) -> Iterator[ImportedUser | BadLine]:
    """Read users. An empty cell of a CSV leaves its field unchanged, so only NDJSON can clear one, with null.

    ``""`` in quotes is the empty text, where a field may be that.
    """
    for number, fields in _user_fields(source):
        if isinstance(fields, str):
            yield BadLine(number, fields)
            continue
        id_ = fields.pop("id", None)
        try:
            changes = msgspec.convert(fields, UserChanges, strict=source.is_json)
        except ValueError as error:
            yield BadLine(number, _reason(error))
            continue
        if isinstance(id_, str) or (isinstance(id_, int) and not isinstance(id_, bool)):
            yield ImportedUser(number, str(id_), changes)
        else:
            yield BadLine(number, "id is missing" if id_ is None else "id must be a string or a whole number")


def _user_fields(source: ImportFile) -> Iterator[tuple[int, dict[str, Any] | str]]:
    if source.is_json:
        yield from _json_lines(lines(source.text), msgspec.json.Decoder(dict[str, Any]).decode)
        return
    columns, records = _table(lines(source.text), USER_COLUMNS, ("id",))
    for number, fields in records:
        if isinstance(fields, str):
            yield number, fields
        else:
            cells = zip(columns, fields, strict=True)
            yield number, {name: field for name, field in cells if field or (field == "" and name in MAY_BE_EMPTY)}


def _json_lines(numbered: Iterator[Line], decode: Callable[[str], _T]) -> Iterator[tuple[int, _T | str]]:
    """Yield each line decoded, or the reason why it cannot be. Blank lines are left out."""
    for number, text in numbered:
        if text is None:
            yield number, TOO_LONG
        elif not text.isspace():
            try:
                yield number, decode(text)
            except ValueError as error:
                yield number, _reason(error)


def _table(
    numbered: Iterator[Line], known: tuple[str, ...], needed: tuple[str, ...]
) -> tuple[list[str], Iterator[Record]]:
    """Return (columns, records of that width). Raises ClickException unless the first line names known columns."""
    records = csv_records(numbered)
    _, header = next(records, (1, ""))
    columns = [(name or "").strip().lower() for name in header] if isinstance(header, list) else []
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
    """Return microseconds since 1970 of an RFC 3339 time or of such a number; None if empty. Raises ValueError."""
    if value is None or value == "":
        return None
    if isinstance(value, int) or _is_whole(value):
        microseconds = int(value)
        if microseconds < MICROSECONDS_MIN:
            raise ValueError("created_at as a number must be microseconds since 1970")
    elif looks_like_time(value):
        try:
            microseconds = parse_time(value)
        except ValueError:
            raise ValueError(f"created_at {shown(value)} is not a time") from None
    else:
        raise ValueError(f"created_at {shown(value)} is neither RFC 3339 with an offset nor microseconds")
    if not 0 <= microseconds <= latest:
        raise ValueError(f"created_at {shown(str(value))} is {'in the future' if microseconds > 0 else 'before 1970'}")
    return microseconds


def read_flag(value: str | int | bool | None) -> bool:
    """Return the flag that true, false, 1, 0 or an empty value stands for. Raises ValueError."""
    flag = NOTIFICATION_VALUES.get(("" if value is None else str(value)).lower())
    if flag is None:
        raise ValueError(f"notifications {shown(str(value))} is neither true nor false")
    return flag


def _reason(error: ValueError) -> str:
    """Return the decoder's message with the field's name in front."""
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    message, _, place = str(error).partition(" - at `$.")
    return f"{place.rstrip('`')}: {message}" if place else message
