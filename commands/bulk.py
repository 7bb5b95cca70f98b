"""Bulk import of follows: a batch is staged with COPY, then appended to the log by one call under its lock.

What a batch adds cannot be told from what callers added one by one, except that a follow may bring its own time. A
batch that was cut off half-way may be sent again: what is in the log already is counted and left alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import errors as postgres_errors
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from commands.directory import default_login, spare_login
from commands.errors import LogUnavailable, SettingsError
from commands.events import UserFollowed, encode
from commands.postgres import CONNECT_TIMEOUT_S, PostgresSettings, driver_url
from commands.users import ID_PATTERN

# The log's lock is held for some 10 us a follow: a caller of the live service waits 100 ms at most for one batch, and
# larger ones are hardly faster.
BATCH: Final = 10_000
# Numbers never change, so an entry is never wrong; about 30 MB when full.
CACHE_MAX: Final = 250_000
# An import is in nobody's way while it waits, so it may wait longer than a request.
LOCK_TIMEOUT_MS: Final = 60_000
STATEMENT_TIMEOUT_MS: Final = 120_000
# The default login, then two random ones: a second collision of 48 random bits is not to be expected.
LOGIN_ATTEMPTS: Final = 3

is_id: Final = re.compile(ID_PATTERN).match

_STAGING: Final = "CREATE TEMP TABLE staged_follows (ord integer, subject bigint, object bigint, data jsonb)"
_COPY: Final = "COPY staged_follows (ord, subject, object, data) FROM STDIN"
_IMPORT: Final = "SELECT added, last_position, erased FROM import_follows()"
_FIND: Final = "SELECT id, number, erased_at IS NOT NULL FROM users WHERE id = ANY(%s)"
_REGISTER: Final = "SELECT new_id, new_number FROM register_users(%s, %s, %s, %s::jsonb[])"


class FollowRow(NamedTuple):
    """A follow to bring in; ``created_at`` in us since 1970, None for "as of now"."""

    line: int
    follower: str
    followed: str
    created_at: int | None = None
    notifications: bool = False


class BadLine(NamedTuple):
    """A line that cannot go in, and why."""

    line: int
    reason: str


class Outcome(NamedTuple):
    """What became of a batch; ``position`` is that of its last event, None when it added none."""

    added: int
    changed: int
    unchanged: int
    bad: list[BadLine]
    position: int | None

    def then(self, other: Outcome) -> Outcome:
        """Both batches taken together, ``other`` after this one."""
        counts = (self.added + other.added, self.changed + other.changed, self.unchanged + other.unchanged)
        return Outcome(*counts, [*self.bad, *other.bad], other.position or self.position)


class Bulk:
    """One import's own connection, and the numbers of the ids it has met (not those of erased users)."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.numbers: dict[str, int] = {}
        connection.execute(_STAGING)

    def find(self, ids: Iterable[str]) -> set[str]:
        """Remember the numbers of those of ``ids`` that exist; give those that are erased."""
        found = self.connection.execute(_FIND, [list(ids)]).fetchall()
        self.numbers.update((id_, number) for id_, number, erased in found if not erased)
        return {id_ for id_, _, erased in found if erased}

    def register(self, ids: Sequence[str]) -> None:
        """Register ``ids`` as users with nothing but a login; one that somebody erases meanwhile gets no number."""
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

    def forget_oldest(self) -> None:
        """Keep memory flat however many users there are."""
        for id_ in list(self.numbers)[: max(0, len(self.numbers) - CACHE_MAX)]:
            del self.numbers[id_]


@contextmanager
def bulk(settings: PostgresSettings) -> Iterator[Bulk]:
    """Open the connection of an import.

    Raises LogUnavailable where the database does not answer, then or later, and SettingsError where it refuses.
    """
    options = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
    connect_args = {"options": options, "connect_timeout": CONNECT_TIMEOUT_S}
    engine = create_engine(driver_url(settings.database_url), poolclass=NullPool, connect_args=connect_args)
    pooled = None
    try:
        pooled = engine.raw_connection()
        connection = pooled.driver_connection
        assert isinstance(connection, psycopg.Connection)
        connection.autocommit = True  # each call is a whole unit by itself
        yield Bulk(connection)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise LogUnavailable from error
    except (postgres_errors.InsufficientPrivilege, postgres_errors.ReadOnlySqlTransaction) as error:
        raise SettingsError(f"the database refuses: {error.diag.message_primary}") from error
    finally:
        if pooled is not None:
            pooled.close()


def import_follows(
    bulk: Bulk, rows: Sequence[FollowRow], *, create_users: bool = False, strict: bool = False
) -> Outcome:
    """Append the follows of ``rows`` that are not there yet, in their order.

    Users that do not exist make a line bad, unless ``create_users`` registers them. ``strict`` leaves out everything
    from the first bad line on.
    """
    bulk.forget_oldest()
    good, new, bad = _judge(bulk, rows, create_users, strict)
    seen = len(good) + len(bad)
    if new:
        bulk.register(new)
    pairs = _pairs(bulk.numbers, good, bad)
    added, position, erased = _append(bulk.connection, pairs)
    staged = list(pairs.values())
    for row in (staged[ord_ - 1] for ord_ in erased or ()):  # erased since their numbers were looked up
        bad.append(BadLine(row.line, f"user {shown(row.follower)} or {shown(row.followed)} was erased"))
        bulk.numbers.pop(row.follower, None)
        bulk.numbers.pop(row.followed, None)
    return Outcome(added, 0, seen - added - len(bad), sorted(bad), position)


def _judge(
    bulk: Bulk, rows: Sequence[FollowRow], create_users: bool, strict: bool
) -> tuple[list[FollowRow], list[str], list[BadLine]]:
    """Give (rows that can go in, ids to register before that, bad lines); ``strict`` ends at the first bad one."""
    numbers = bulk.numbers
    unmet = dict.fromkeys(id_ for row in rows for id_ in (row.follower, row.followed) if id_ not in numbers)
    lawful = dict.fromkeys(filter(is_id, unmet))
    erased = bulk.find(lawful) if lawful else set()
    good: list[FollowRow] = []
    bad: list[BadLine] = []
    new: dict[str, None] = {}
    for row in rows:
        if row.follower in numbers and row.followed in numbers and row.follower != row.followed:
            good.append(row)
            continue
        unknown = [id_ for id_ in (row.follower, row.followed) if id_ not in numbers]
        reason = _reason(row, unknown, lawful, erased, create_users)
        if reason is None:
            good.append(row)
            new.update(dict.fromkeys(unknown))
            continue
        bad.append(BadLine(row.line, reason))
        if strict:
            break
    return good, list(new), bad


def _reason(
    row: FollowRow, unknown: list[str], lawful: Collection[str], erased: Collection[str], create_users: bool
) -> str | None:
    for id_ in unknown:
        if id_ not in lawful:
            return f"{shown(id_)} is not a user id: 1 to 64 of 0-9 A-Z a-z _ -"
        if id_ in erased:
            return f"user {shown(id_)} was erased"
        if not create_users:
            return f"unknown user {shown(id_)}"
    if row.follower == row.followed:
        return f"user {shown(row.follower)} cannot follow himself"
    return None


def _pairs(numbers: dict[str, int], rows: Iterable[FollowRow], bad: list[BadLine]) -> dict[tuple[int, int], FollowRow]:
    """Give each pair of numbers its first row; an id that still has no number makes its line bad."""
    pairs: dict[tuple[int, int], FollowRow] = {}
    for row in rows:
        try:
            pairs.setdefault((numbers[row.follower], numbers[row.followed]), row)
        except KeyError as missing:
            bad.append(BadLine(row.line, f"unknown user {shown(missing.args[0])}"))
    return pairs


def _append(
    connection: psycopg.Connection[Any], pairs: dict[tuple[int, int], FollowRow]
) -> tuple[int, int | None, list[int] | None]:
    """Stage and append; give (how many were added, last position, places of the rows with an erased user)."""
    if not pairs:
        return 0, None, None
    lines = (
        f"{ord_}\t{subject}\t{object_}\t{_data(row)}\n"
        for ord_, ((subject, object_), row) in enumerate(pairs.items(), 1)
    )
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE staged_follows")
        with cursor.copy(_COPY) as copy:
            copy.write("".join(lines))
        added, position, erased = cursor.execute(_IMPORT).fetchone() or (0, None, None)
    return added, position, erased


def _data(row: FollowRow) -> str:
    """Give the event's data in COPY's text form; JSON of numbers and booleans holds nothing to escape."""
    if row.created_at is None and not row.notifications:
        return "\\N"
    event = UserFollowed(notifications=row.notifications, created_at=row.created_at)
    return encode(event)[1] or "\\N"


def shown(id_: str) -> str:
    """An id as somebody wrote it, fit for one line of a terminal."""
    return repr(id_ if len(id_) <= 80 else id_[:80] + "...")
