"""Bulk import of follows: a batch is staged with COPY, then appended to the log by one call under its lock.

The events are the same as those of single commands, except that a follow may have a time of its own. An interrupted
batch may be sent again: follows that exist are counted and left as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import psycopg

from commands.db.postgres import PostgresSettings, connect_once
from commands.db.session import SessionNeeds
from commands.db.unavailable import refused_in_words, translated_errors
from commands.directory import default_login, spare_login
from commands.events import UserFollowed, encode
from commands.users import ID_IN_WORDS, ID_MAX, is_user_id

# The log's lock is held for some 10 us a follow, so a live command waits at most 100 ms for one batch. Larger batches
# are hardly faster.
IMPORT_BATCH: Final = 10_000
# About 30 MB when full. Numbers never change, so a cached one is never wrong.
IMPORT_NUMBERS_MAX: Final = 250_000
# An import holds up no request while it waits, so it may wait longer than one.
IMPORT_LOCK_TIMEOUT_MS: Final = 60_000
IMPORT_STATEMENT_TIMEOUT_MS: Final = 120_000
# The default login, then two random ones: two collisions of 48 random bits are not to be expected.
LOGIN_ATTEMPTS: Final = 3

_STAGING: Final = """CREATE TEMP TABLE staged_follows (ord integer, subject bigint, object bigint, data jsonb)
    ON COMMIT DROP"""
_COPY: Final = "COPY staged_follows (ord, subject, object, data) FROM STDIN"
_IMPORT: Final = "SELECT added, last_position, erased, set_aside FROM import_follows(); COMMIT"
_FIND: Final = "SELECT id, number, erased_at IS NOT NULL FROM users WHERE id = ANY(%s)"
_REGISTER: Final = "SELECT new_id, new_number FROM register_users(%s, %s, %s, %s::jsonb[])"


class ImportedFollow(NamedTuple):
    """A follow to import; ``created_at`` in us since 1970, None for the time of the import."""

    line: int
    follower: str
    followed: str
    created_at: int | None = None
    notifications: bool = False


class BadLine(NamedTuple):
    """A line that cannot be imported, and why."""

    line: int
    reason: str


class ImportResult(NamedTuple):
    """The result of a batch; ``position`` is that of its last event, None when it appended none."""

    added: int
    changed: int
    unchanged: int
    bad: list[BadLine]
    position: int | None

    def then(self, other: ImportResult) -> ImportResult:
        """Return the result of both batches, ``other`` after this one."""
        counts = (self.added + other.added, self.changed + other.changed, self.unchanged + other.unchanged)
        return ImportResult(*counts, [*self.bad, *other.bad], other.position or self.position)


class ImportConnection:
    """The connection of one import, and the numbers of the ids that it has seen, without erased users."""

    def __init__(self, connection: psycopg.Connection[Any], numbers_max: int) -> None:
        self.connection = connection
        self.numbers: dict[str, int] = {}
        self._numbers_max = numbers_max

    def find(self, ids: Iterable[str]) -> set[str]:
        """Cache the numbers of the ids that exist; return the ids that are erased."""
        found = self.connection.execute(_FIND, [list(ids)]).fetchall()
        self.numbers.update((id_, number) for id_, number, erased in found if not erased)
        return {id_ for id_, _, erased in found if erased}

    def register(self, ids: Sequence[str]) -> None:
        """Register ``ids`` as users with only a login. An id that is erased meanwhile gets no number."""
        missing = list(ids)
        for attempt in range(LOGIN_ATTEMPTS):
            logins = [default_login(id_) if attempt == 0 else spare_login() for id_ in missing]
            rows = self.connection.execute(_REGISTER, [missing, logins, missing, ["{}"] * len(missing)]).fetchall()
            self.numbers.update(rows)
            taken = [id_ for id_ in missing if id_ not in self.numbers]
            if taken:
                self.find(taken)
            missing = [id_ for id_ in taken if id_ not in self.numbers]
            if not missing:
                return

    def evict_oldest(self) -> None:
        """Drop the oldest cached numbers beyond the limit."""
        for id_ in list(self.numbers)[: max(0, len(self.numbers) - self._numbers_max)]:
            del self.numbers[id_]


@contextmanager
def connect_import(
    settings: PostgresSettings,
    *,
    lock_timeout_ms: int = IMPORT_LOCK_TIMEOUT_MS,
    numbers_max: int = IMPORT_NUMBERS_MAX,
) -> Iterator[ImportConnection]:
    """Open the connection of an import, and close it at the end; each statement commits by itself.

    Raises LogUnavailable when Postgres is away or takes no writes, now or in the block, and SettingsError for a server
    that must not hold the log.
    """
    limits = {"lock_timeout": lock_timeout_ms, "statement_timeout": IMPORT_STATEMENT_TIMEOUT_MS}
    needs = SessionNeeds(limits, durable=not settings.allow_async_commit)
    with refused_in_words(), translated_errors(), connect_once(settings, needs, autocommit=True) as connection:
        yield ImportConnection(connection, numbers_max)


def import_follows(
    target: ImportConnection, rows: Sequence[ImportedFollow], *, create_users: bool = False, strict: bool = False
) -> ImportResult:
    """Append the follows of ``rows`` that do not exist yet, in their order.

    An unknown user makes a line bad, unless ``create_users`` registers it. ``strict`` leaves out all lines from the
    first bad one on.
    """
    target.evict_oldest()
    good, new, bad = _sort_rows(target, rows, create_users, strict)
    read = len(good) + len(bad)
    if new:
        target.register(new)
    pairs = _pairs(target.numbers, good, bad)
    added, position, erased, set_aside = _append(target.connection, pairs)
    staged = list(pairs.values())
    for row in (staged[ord_ - 1] for ord_ in erased or ()):  # erased since their numbers were cached
        bad.append(BadLine(row.line, f"user {shown(row.follower)} or {shown(row.followed)} was erased"))
        target.numbers.pop(row.follower, None)
        target.numbers.pop(row.followed, None)
    for row in (staged[ord_ - 1] for ord_ in set_aside or ()):
        reason = f"an earlier change of user {shown(row.follower)} following {shown(row.followed)} is parked"
        bad.append(BadLine(row.line, f"{reason}, or cannot be read by this version: see `follows parked`"))
    return ImportResult(added, 0, read - added - len(bad), sorted(bad), position)


@contextmanager
def staging(connection: psycopg.Connection[Any], table: str) -> Iterator[psycopg.Cursor[Any]]:
    """Lend a cursor in a transaction that has a table of its own. The block ends with a statement that also commits:
    the log's lock is not held while the client is waited for."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("BEGIN")
            cursor.execute(table)
            yield cursor
        except BaseException:
            with suppress(psycopg.Error):
                connection.rollback()
            raise


def _sort_rows(
    target: ImportConnection, rows: Sequence[ImportedFollow], create_users: bool, strict: bool
) -> tuple[list[ImportedFollow], list[str], list[BadLine]]:
    """Return (rows to import, ids to register before that, bad lines); ``strict`` ends at the first bad line."""
    numbers = target.numbers
    uncached = dict.fromkeys(id_ for row in rows for id_ in (row.follower, row.followed) if id_ not in numbers)
    valid = dict.fromkeys(filter(is_user_id, uncached))
    erased = target.find(valid) if valid else set()
    good: list[ImportedFollow] = []
    bad: list[BadLine] = []
    new: dict[str, None] = {}
    for row in rows:
        if row.follower in numbers and row.followed in numbers and row.follower != row.followed:
            good.append(row)
            continue
        unknown = [id_ for id_ in (row.follower, row.followed) if id_ not in numbers]
        reason = _reason(row, unknown, valid, erased, create_users)
        if reason is None:
            good.append(row)
            new.update(dict.fromkeys(unknown))
            continue
        bad.append(BadLine(row.line, reason))
        if strict:
            break
    return good, list(new), bad


def _reason(
    row: ImportedFollow, unknown: list[str], valid: Collection[str], erased: Collection[str], create_users: bool
) -> str | None:
    for id_ in unknown:
        if id_ not in valid:
            return f"{shown(id_)} is not a user id: {ID_IN_WORDS}"
        if id_ in erased:
            return f"user {shown(id_)} was erased"
        if not create_users:
            return f"unknown user {shown(id_)}"
    if row.follower == row.followed:
        return f"user {shown(row.follower)} cannot follow himself"
    return None


def _pairs(
    numbers: dict[str, int], rows: Iterable[ImportedFollow], bad: list[BadLine]
) -> dict[tuple[int, int], ImportedFollow]:
    """Return pair of numbers -> its first row; an id that still has no number makes its line bad."""
    pairs: dict[tuple[int, int], ImportedFollow] = {}
    for row in rows:
        try:
            pairs.setdefault((numbers[row.follower], numbers[row.followed]), row)
        except KeyError as missing:
            bad.append(BadLine(row.line, f"unknown user {shown(missing.args[0])}"))
    return pairs


def _append(
    connection: psycopg.Connection[Any], pairs: dict[tuple[int, int], ImportedFollow]
) -> tuple[int, int | None, list[int] | None, list[int] | None]:
    """Stage and append; return (how many were added, last position, places of the rows with an erased user, places of
    the rows whose pair has a parked event)."""
    if not pairs:
        return 0, None, None, None
    lines = (
        f"{ord_}\t{subject}\t{object_}\t{_data(row)}\n"
        for ord_, ((subject, object_), row) in enumerate(pairs.items(), 1)
    )
    with staging(connection, _STAGING) as cursor:
        with cursor.copy(_COPY) as copy:
            copy.write("".join(lines))
        added, position, erased, set_aside = cursor.execute(_IMPORT).fetchone() or (0, None, None, None)
    return added, position, erased, set_aside


def _data(row: ImportedFollow) -> str:
    """Return the event's data in COPY's text form; JSON of numbers and booleans needs no escapes."""
    if row.created_at is None and not row.notifications:
        return "\\N"
    event = UserFollowed(notifications=row.notifications, created_at=row.created_at)
    return encode(event)[1] or "\\N"


def shown(id_: str) -> str:
    """Return an id from a file, shortened and quoted for one line of a terminal."""
    return repr(id_ if len(id_) <= ID_MAX else id_[:ID_MAX] + "...")
