"""The event log: append in batches, read in order. Every statement on single events is in this module."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast
from uuid import UUID

import msgspec
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from commands.db.identity import SERVER_RUN
from commands.db.postgres import Engine, connected, fetch
from commands.errors import LogUnavailable
from commands.events import AnyEvent, Recorded, Unreadable, encode, read_event

# The most events that one read returns: some 10 MB in Python, well under a second of work.
READ_LIMIT_MAX: Final = 20_000

_T = TypeVar("_T")

_COLUMNS: Final = """position, subject, object, version, type::text, microseconds(recorded_at) AS recorded_at,
    data::text"""

_APPEND: Final = text(
    """SELECT ord, at_position, microseconds(at_time), batch_word
    FROM append_events(
        CAST(:subjects AS bigint[]), CAST(:objects AS bigint[]), CAST(:versions AS integer[]),
        CAST(:types AS event_type[]), CAST(:datas AS jsonb[]),
        CAST(:command_ids AS uuid[]), CAST(:request_hashes AS bytea[]), CAST(:following_max AS bigint))"""
)
_WORDS: Final = text(
    """SELECT p, word_at(p), pg_is_in_recovery(), p <= (SELECT coalesce(max(position), 0) FROM events)
    FROM unnest(CAST(:positions AS bigint[])) p"""
)
# The words are read in the same statement, so that they are of the same server and moment as the events.
_AFTER: Final = f"""WITH slice AS MATERIALIZED (
        SELECT {_COLUMNS} FROM events WHERE position > %(after)s ORDER BY position LIMIT %(limit)s)
    SELECT * FROM slice UNION ALL
    SELECT NULL, word_at(%(after)s), word_at((SELECT max(position) FROM slice)), NULL, {SERVER_RUN}, NULL, NULL"""
_AT: Final = text(f"SELECT {_COLUMNS} FROM events WHERE position = ANY(CAST(:positions AS bigint[]))")
_LAST_AT: Final = text(
    f"""SELECT {_COLUMNS} FROM events WHERE subject = :subject AND object = :object AND position <= :up_to
    AND NOT position = ANY(CAST(:without AS bigint[])) ORDER BY version DESC LIMIT 1"""
)
# The positions that an operator has skipped: views and decisions pass over their events.
SKIPPED: Final = "ARRAY(SELECT position FROM parked WHERE skipped_at IS NOT NULL)"
# The table of parked events is nearly always empty: then it is looked at once, not for each pair.
_PAIR_STATES: Final = text(
    f"""SELECT EXISTS (SELECT FROM erasures WHERE number = p.s), EXISTS (SELECT FROM erasures WHERE number = p.o),
        CASE WHEN (SELECT EXISTS (SELECT FROM parked)) THEN (
            SELECT min(k.position) FROM parked k
            WHERE k.subject = p.s AND k.object = p.o AND is_set_aside(k.position, k.store)) END,
        CASE WHEN (SELECT EXISTS (SELECT FROM parked)) THEN EXISTS (
            SELECT FROM parked k WHERE k.position = e.position AND k.skipped_at IS NOT NULL) ELSE false END, e.*
    FROM unnest(CAST(:subjects AS bigint[]), CAST(:objects AS bigint[])) WITH ORDINALITY AS p (s, o, ord)
    LEFT JOIN LATERAL (
        SELECT {_COLUMNS} FROM events WHERE subject = p.s AND object = p.o ORDER BY version DESC LIMIT 1) e ON true
    ORDER BY p.ord"""
)
_LAST_UNSKIPPED: Final = text(
    f"""SELECT {_COLUMNS} FROM events WHERE subject = :subject AND object = :object
    AND position <> ALL ({SKIPPED})
    ORDER BY version DESC LIMIT 1"""
)
_HEAD: Final = text(
    """SELECT (SELECT log_id FROM log_identity), e.position, microseconds(e.recorded_at),
        microseconds(clock_timestamp()), word_at(coalesce(e.position, 0))
    FROM (SELECT 1) one LEFT JOIN (SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1) e ON true"""
)
_RECENT_WORDS: Final = text("SELECT last_position, word FROM batches ORDER BY last_position DESC LIMIT :limit")
_LOG_ID: Final = text("SELECT log_id FROM log_identity")
_TIME_AFTER: Final = text(
    "SELECT microseconds(recorded_at) FROM events WHERE position > :after ORDER BY position LIMIT 1"
)
_COUNT: Final = text("SELECT count(*) FROM events")


class Draft(msgspec.Struct, frozen=True):
    """An event to append, as the ``version``-th of its pair; the last two fields when its command has a key."""

    subject: int
    object: int
    version: int
    event: AnyEvent
    command_id: UUID | None = None
    request_hash: bytes | None = None


class PairState(msgspec.Struct, frozen=True):
    """The input of a decision on a pair.

    ``version`` is that of its newest event, 0 without any. ``last`` is the newest event that was not skipped.
    ``parked`` is the first position that makes a decision impossible: of a parked event, or of a last event that this
    version cannot read.
    """

    subject_erased: bool
    object_erased: bool
    version: int
    last: Recorded | None
    parked: int | None


class Appended(NamedTuple):
    """What an append did: index of the draft -> (position, recorded_at in us), the indexes of the follows that were
    refused because the follower has reached the limit, and the word of the batch (None when nothing was appended)."""

    rows: dict[int, tuple[int, int]]
    too_many: set[int]
    word: int | None


class Slice(NamedTuple):
    """Events in order, the word of the last one's position (None without events), the word of the position after which
    they were read (None when that is beyond the log's head), and the run of the server, as ``read_server_run`` has it.
    """

    events: list[Recorded]
    word: int | None
    word_before: int | None
    run: str = ""


class Head(msgspec.Struct, frozen=True):
    """The log's end: the log's id, last position (0 when empty), that event's time and the server's time, in us, and
    the word of that position."""

    log_id: UUID
    position: int
    recorded_at: int
    now: int
    word: int | None


async def append(connection: AsyncConnection, drafts: Sequence[Draft]) -> dict[int, tuple[int, int]]:
    """Append ``drafts``, each pair at most once; return index -> (position, recorded_at in us) of those appended.

    A missing draft lost a race and has to be decided again: see ``commands/db/sql/append_events.sql``.
    """
    return (await append_limited(connection, drafts, None)).rows


async def append_limited(connection: AsyncConnection, drafts: Sequence[Draft], following_max: int | None) -> Appended:
    """Append as ``append`` does, but no follow by a user who follows ``following_max`` users already."""
    encoded = [encode(draft.event) for draft in drafts]
    rows = await connection.execute(
        _APPEND,
        {
            "subjects": _array([draft.subject for draft in drafts]),
            "objects": _array([draft.object for draft in drafts]),
            "versions": _array([draft.version for draft in drafts]),
            "types": _array([name for name, _ in encoded]),
            "datas": _sparse([data for _, data in encoded]),
            "command_ids": _sparse([draft.command_id for draft in drafts]),
            "request_hashes": _sparse([draft.request_hash for draft in drafts]),
            "following_max": following_max,
        },
    )
    appended: dict[int, tuple[int, int]] = {}
    too_many, batch_word = set[int](), None
    for ord_, position, recorded_at, word in rows:
        if position is None:
            too_many.add(ord_ - 1)
        else:
            appended[ord_ - 1], batch_word = (position, recorded_at), word
    return Appended(appended, too_many, batch_word)


def _array(values: Sequence[int | str]) -> str:
    """Return Postgres' text form of an array of numbers or names, in a tenth of the time that psycopg needs."""
    return f"{{{','.join(map(str, values))}}}"


def _sparse(values: list[_T | None]) -> list[_T | None] | str:
    """Return an array for Postgres: as text when all values are None, which is the usual case, else for psycopg."""
    return values if any(value is not None for value in values) else _array(["NULL"] * len(values))


def _recorded(row: Sequence[Any]) -> Recorded:
    position, subject, object_, version, type_, recorded_at, data = row
    return Recorded(position, subject, object_, version, read_event(type_, data), recorded_at)


async def pair_states(connection: AsyncConnection, pairs: Sequence[tuple[int, int]]) -> list[PairState]:
    """Return the state of each pair, in their order, with one query unless an event was skipped."""
    rows = await connection.execute(
        _PAIR_STATES, {"subjects": _array([pair[0] for pair in pairs]), "objects": _array([pair[1] for pair in pairs])}
    )
    return [await _pair_state(connection, row) for row in rows.all()]


async def _pair_state(connection: AsyncConnection, row: Sequence[Any]) -> PairState:
    subject_erased, object_erased, parked, is_skipped, *newest = row
    if newest[0] is None:
        return PairState(subject_erased, object_erased, 0, None, None)
    version, last = newest[3], _recorded(newest)
    if is_skipped:
        rows = await connection.execute(_LAST_UNSKIPPED, {"subject": newest[1], "object": newest[2]})
        if (before := rows.one_or_none()) is None:
            return PairState(subject_erased, object_erased, version, None, parked)
        last = _recorded(before)
    if parked is None and isinstance(last.event, Unreadable):
        parked = last.position
    return PairState(subject_erased, object_erased, version, last, parked)


async def events_at(connection: AsyncConnection, positions: Sequence[int]) -> dict[int, Recorded]:
    """Return position -> event for the positions that exist."""
    rows = await connection.execute(_AT, {"positions": list(positions)})
    return {row[0]: _recorded(row) for row in rows}


async def read_at(engine: Engine, positions: Sequence[int]) -> list[Recorded]:
    """Return the events at the positions that exist, in order."""
    async with connected(engine) as connection:
        return sorted((await events_at(connection, positions)).values(), key=lambda recorded: recorded.position)


async def read_after(engine: Engine, after: int, limit: int) -> list[Recorded]:
    """Return the events that ``read_slice`` returns."""
    return (await read_slice(engine, after, limit)).events


async def read_slice(engine: Engine, after: int, limit: int, *, limit_max: int = READ_LIMIT_MAX) -> Slice:
    """Return up to ``limit`` events after position ``after``, in order. It never skips one: see ``append_events``.

    It uses psycopg itself, since SQLAlchemy's rows would double the cost of reading an event.
    """
    async with connected(engine) as connection:
        driver = cast("psycopg.AsyncConnection[Any]", (await connection.get_raw_connection()).driver_connection)
        parameters = {"after": after, "limit": min(limit, limit_max)}
        cursor = await driver.execute(_AFTER, parameters, prepare=True, binary=True)
        *rows, (_, word_before, word, _, run, *_) = await cursor.fetchall()
        events = [
            Recorded(position, subject, object_, version, read_event(type_, data), at)
            for position, subject, object_, version, type_, at, data in rows
        ]
        return Slice(events, word, word_before, run)


async def last_event_at(
    engine: Engine, subject: int, object_: int, up_to: int, without: Collection[int] = ()
) -> Recorded | None:
    """Return a pair's last event at position ``up_to``, passing over the positions ``without``."""
    parameters = {"subject": subject, "object": object_, "up_to": up_to, "without": list(without)}
    return next((_recorded(row) for row in await fetch(engine, _LAST_AT, parameters)), None)


async def read_skipped(engine: Engine) -> list[int]:
    """Return the positions of the events that an operator has skipped."""
    skipped: list[int] = (await fetch(engine, text(f"SELECT {SKIPPED}")))[0][0]
    return skipped


async def words_at(engine: Engine, positions: Collection[int]) -> dict[int, int | None]:
    """Return position -> word, without the positions beyond the log's head.

    Two logs share their history up to a position exactly when they have the same word there. A word is None after the
    last batch: an event was inserted there by hand. Raises LogUnavailable on a standby: its head may be behind.
    """
    words = dict[int, int | None]()
    for position, word, is_standby, is_there in await fetch(engine, _WORDS, {"positions": list(positions)}):
        if is_standby:
            raise LogUnavailable
        if is_there:
            words[position] = word
    return words


async def recent_words(engine: Engine, limit: int) -> dict[int, int]:
    """Return last position -> word of the newest batches."""
    return {row[0]: row[1] for row in await fetch(engine, _RECENT_WORDS, {"limit": limit})}


async def head(engine: Engine) -> Head:
    """Return the log's end as it is now."""
    ((log_id, position, recorded_at, now, word),) = await fetch(engine, _HEAD)
    return Head(log_id, position or 0, recorded_at or 0, now, word)


async def read_log_id(engine: Engine) -> UUID:
    """Return the id of the log, which copies of the database share."""
    log_id: UUID = (await fetch(engine, _LOG_ID))[0][0]
    return log_id


async def count_events(engine: Engine) -> int:
    """Count the events of the log, which takes a second for some ten million."""
    count: int = (await fetch(engine, _COUNT))[0][0]
    return count


async def time_after(engine: Engine, after: int) -> int | None:
    """Return the time (us) of the first event after ``after``, since when a reader there has been behind, or None."""
    rows = await fetch(engine, _TIME_AFTER, {"after": after})
    return rows[0][0] if rows else None
