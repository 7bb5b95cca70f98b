"""Bulk import of users: a batch is staged with COPY, then registered or changed by one call under the log's lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from commands.bulk_follows import BadLine, ImportConnection, ImportResult, shown, staging
from commands.directory import default_login, spare_login
from commands.users import ID_IN_WORDS, LOGIN_IN_WORDS, UserChanges, given, is_login, is_new_login, is_user_id

_STAGING: Final = """CREATE TEMP TABLE staged_users (
    ord integer, id text, login text, default_login text, spare_login text, display_name text, default_name text,
    profile jsonb, number bigint, old_login text, verdict text) ON COMMIT DROP"""
_COPY: Final = """COPY staged_users (ord, id, login, default_login, spare_login, display_name, default_name, profile)
    FROM STDIN"""
_IMPORT: Final = "SELECT added, changed, last_position, erased, taken FROM import_users({}); COMMIT"


class ImportedUser(NamedTuple):
    """A user to import; fields that ``changes`` leaves out stay as they are."""

    line: int
    id: str
    changes: UserChanges


def import_users(target: ImportConnection, rows: Sequence[ImportedUser], *, strict: bool = False) -> ImportResult:
    """Register the users of ``rows`` that are new and change those that differ, in their order.

    An erased user or a taken login makes a line bad. ``strict`` leaves out all lines from the first bad one on.
    """
    outcome = ImportResult(0, 0, 0, [], None)
    for part in _parts(rows):
        one = _import(target, part, strict)
        outcome = outcome.then(one)
        if strict and one.bad:
            break
    return outcome


def _parts(rows: Sequence[ImportedUser]) -> Iterator[list[ImportedUser]]:
    """Split ``rows`` before a repeated id: its second line must see the result of the first."""
    part: dict[str, ImportedUser] = {}
    for row in rows:
        if row.id in part:
            yield list(part.values())
            part = {}
        part[row.id] = row
    yield list(part.values())


def _import(target: ImportConnection, rows: list[ImportedUser], strict: bool) -> ImportResult:
    bad: list[BadLine] = []
    good: list[ImportedUser] = []
    with staging(target.connection, _STAGING) as cursor:
        with cursor.copy(_COPY) as copy:
            for row in rows:
                if reason := _reason(row):
                    bad.append(BadLine(row.line, reason))
                    if strict:
                        break
                    continue
                good.append(row)
                copy.write_row((len(good), *_columns(row)))
        found = cursor.execute(_IMPORT.format(strict)).fetchone()
    added, changed, position, erased, taken = found or (0, 0, None, None, None)
    bad += [BadLine(row.line, f"user {shown(row.id)} was erased") for row in _at(good, erased)]
    bad += [
        BadLine(row.line, f"the username {shown(given(row.changes.username) or '')} is taken")
        for row in _at(good, taken)
    ]
    bad.sort()
    read = len(rows)
    if strict and bad:
        bad = bad[:1]
        read = next(place for place, row in enumerate(rows, 1) if row.line == bad[0].line)
    return ImportResult(added, changed, read - added - changed - len(bad), bad, position)


def _at(rows: list[ImportedUser], places: list[int] | None) -> list[ImportedUser]:
    return [rows[place - 1] for place in places or ()]


def _columns(row: ImportedUser) -> tuple[str | None, ...]:
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


def _reason(row: ImportedUser) -> str | None:
    """Return why the database would reject a row whose fields have the right types, or None."""
    if not is_user_id(row.id):
        return f"{shown(row.id)} is not a user id: {ID_IN_WORDS}"
    fields: dict[str, Any] = msgspec.to_builtins(row.changes)
    if "username" in fields and not is_login(fields["username"]):
        return f"{shown(fields['username'])} is not a username: {LOGIN_IN_WORDS}"
    if "username" in fields and not is_new_login(fields["username"]):
        return f"the username {shown(fields['username'])} is taken"
    for name, value in fields.items():
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            return f"{name} is not valid text"
    return None


def _is_unicode(text: str) -> bool:
    """Return False for text with lone surrogates, which stand for bytes of a file that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
