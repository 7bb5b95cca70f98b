"""Bulk import of users: a batch is staged with COPY, then registered or changed by one call under the log's lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from commands.bulk import BadLine, Bulk, Outcome, is_id, shown
from commands.directory import default_login, spare_login
from commands.users import UserChanges, given

_STAGING: Final = """CREATE TEMP TABLE IF NOT EXISTS staged_users (
    ord integer, id text, login text, own_login text, spare_login text, display_name text, own_name text, profile jsonb,
    number bigint, old_login text, verdict text)"""
_COPY: Final = """COPY staged_users (ord, id, login, own_login, spare_login, display_name, own_name, profile)
    FROM STDIN"""
_IMPORT: Final = "SELECT added, changed, last_position, erased, taken FROM import_users(%s)"


class UserRow(NamedTuple):
    """A user to bring in: fields that ``changes`` leaves out stay as they are."""

    line: int
    id: str
    changes: UserChanges


def import_users(bulk: Bulk, rows: Sequence[UserRow], *, strict: bool = False) -> Outcome:
    """Register the users of ``rows`` that are new and change those that differ, in their order.

    An erased user and a taken login make a line bad; ``strict`` leaves out everything from the first bad line on.
    """
    bulk.connection.execute(_STAGING)
    outcome = Outcome(0, 0, 0, [], None)
    for part in _parts(rows):
        one = _import(bulk, part, strict)
        outcome = outcome.then(one)
        if strict and one.bad:
            break
    return outcome


def _parts(rows: Sequence[UserRow]) -> Iterator[list[UserRow]]:
    """Cut ``rows`` where an id comes again: its second line must find what the first one left."""
    part: dict[str, UserRow] = {}
    for row in rows:
        if row.id in part:
            yield list(part.values())
            part = {}
        part[row.id] = row
    yield list(part.values())


def _import(bulk: Bulk, rows: list[UserRow], strict: bool) -> Outcome:
    bad: list[BadLine] = []
    staged: list[UserRow] = []
    with bulk.connection.cursor() as cursor:
        cursor.execute("TRUNCATE staged_users")
        with cursor.copy(_COPY) as copy:
            for row in rows:
                if reason := _reason(row):
                    bad.append(BadLine(row.line, reason))
                    if strict:
                        break
                    continue
                staged.append(row)
                copy.write_row((len(staged), *_columns(row)))
        found = cursor.execute(_IMPORT, [strict]).fetchone()
    added, changed, position, erased, taken = found or (0, 0, None, None, None)
    bad += [BadLine(row.line, f"user {shown(row.id)} was erased") for row in _at(staged, erased)]
    bad += [
        BadLine(row.line, f"the username {shown(given(row.changes.username) or '')} is taken")
        for row in _at(staged, taken)
    ]
    bad.sort()
    seen = len(rows)
    if strict and bad:
        bad = bad[:1]
        seen = next(place for place, row in enumerate(rows, 1) if row.line == bad[0].line)
    return Outcome(added, changed, seen - added - changed - len(bad), bad, position)


def _at(rows: list[UserRow], places: list[int] | None) -> list[UserRow]:
    return [rows[place - 1] for place in places or ()]


def _columns(row: UserRow) -> tuple[str | None, ...]:
    username = given(row.changes.username)
    own = (None, None) if username else (default_login(row.id), spare_login())
    return (
        row.id,
        username and username.lower(),
        *own,
        given(row.changes.display_name),
        username or row.id,
        msgspec.json.encode(row.changes.profile()).decode(),
    )


def _reason(row: UserRow) -> str | None:
    """What the fields' own types let through and the database does not take."""
    if not is_id(row.id):
        return f"{shown(row.id)} is not a user id: 1 to 64 of 0-9 A-Z a-z _ -"
    fields: dict[str, Any] = msgspec.to_builtins(row.changes)
    if "username" in fields and not is_id(fields["username"]):
        return f"{shown(fields['username'])} is not a username: 1 to 64 of 0-9 A-Z a-z _ -"
    for name, value in fields.items():
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            return f"{name} holds what is no text"
    return None


def _is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: bytes of a file that cannot be read as such show as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
