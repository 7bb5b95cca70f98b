"""The event log: append in batches, read in order. Every statement of it stands here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import msgspec
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from commands.events import AnyEvent, Recorded, Unreadable, decode, encode
from commands.postgres import translated_errors

# Readers of the log ask for at most this many events at once: some 10 MB in Python, well under a second of work.
READ_LIMIT_MAX: Final = 20_000

T = TypeVar("T")

_COLUMNS: Final = """position, subject, object, version, type::text,
    (extract(epoch FROM recorded_at) * 1000000)::bigint AS recorded_at, data::text"""

_APPEND: Final = text(
    """SELECT ord, at_position, (extract(epoch FROM at_time) * 1000000)::bigint
    FROM append_events(
        CAST(:subjects AS bigint[]), CAST(:objects AS bigint[]), CAST(:versions AS integer[]),
        CAST(:types AS event_type[]), CAST(:datas AS jsonb[]),
        CAST(:command_ids AS uuid[]), CAST(:request_hashes AS bytea[]), CAST(:following_max AS bigint))"""
)
_AFTER: Final = f"SELECT {_COLUMNS} FROM events WHERE position > %s ORDER BY position LIMIT %s"
_AT: Final = text(f"SELECT {_COLUMNS} FROM events WHERE position = ANY(CAST(:positions AS bigint[]))")
_NEWEST_AT: Final = text(
    f"""SELECT {_COLUMNS} FROM events WHERE subject = :subject AND object = :object AND position <= :up_to
    AND NOT position = ANY(CAST(:without AS bigint[])) ORDER BY version DESC LIMIT 1"""
)
_TIMES: Final = text(
    """SELECT position, (extract(epoch FROM recorded_at) * 1000000)::bigint FROM events
    WHERE position = ANY(CAST(:positions AS bigint[]))"""
)
_NEWEST: Final = text(
    f"""SELECT p.ord,
        EXISTS (SELECT FROM erasures WHERE number = p.s), EXISTS (SELECT FROM erasures WHERE number = p.o), e.*
    FROM unnest(CAST(:subjects AS bigint[]), CAST(:objects AS bigint[])) WITH ORDINALITY AS p (s, o, ord)
    LEFT JOIN LATERAL (
        SELECT {_COLUMNS} FROM events WHERE subject = p.s AND object = p.o ORDER BY version DESC LIMIT 1) e ON true
    ORDER BY p.ord"""
)
_HEAD: Final = text(
    """SELECT (SELECT epoch FROM log_identity), e.position,
        (extract(epoch FROM e.recorded_at) * 1000000)::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    FROM (SELECT 1) one LEFT JOIN (SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1) e ON true"""
)
_RECORDED_AFTER: Final = text(
    """SELECT (extract(epoch FROM recorded_at) * 1000000)::bigint
    FROM events WHERE position > :after ORDER BY position LIMIT 1"""
)


_COUNT: Final = text("SELECT count(*) FROM events")
_SAMPLE: Final = text("SELECT number, count(*) OVER () FROM users ORDER BY number % 997, number LIMIT :limit")


class Draft(msgspec.Struct, frozen=True):
    """An event to append to its pair as the ``version``-th there; the last two when the command has a key."""

    subject: int
    object: int
    version: int
    event: AnyEvent
    command_id: UUID | None = None
    request_hash: bytes | None = None


class PairState(msgspec.Struct, frozen=True):
    """What a decision about a pair needs: whether either user is erased, and the newest event, if any."""

    subject_erased: bool
    object_erased: bool
    last: Recorded | None


class Head(msgspec.Struct, frozen=True):
    """The log's end: its identity, last position (0 when empty), that event's time and the server's time, in us."""

    epoch: UUID
    position: int
    recorded_at: int
    now: int


async def append(connection: AsyncConnection, drafts: Sequence[Draft]) -> dict[int, tuple[int, int]]:
    """Append ``drafts``, each pair at most once; give index -> (position, recorded_at in us) of those that went in.

    What is missing from the answer lost a race and is to be decided again. Source: ``commands/sql/append_events.sql``.
    """
    appended, _ = await append_within(connection, drafts, None)
    return appended


async def append_within(
    connection: AsyncConnection, drafts: Sequence[Draft], following_max: int | None
) -> tuple[dict[int, tuple[int, int]], set[int]]:
    """Append as ``append`` does, but nobody comes to follow more than ``following_max``; give what went in, and the
    indexes of the follows that did not because the follower has reached it."""
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
    too_many: set[int] = set()
    for ord_, position, recorded_at in rows:
        if position is None:
            too_many.add(ord_ - 1)
        else:
            appended[ord_ - 1] = position, recorded_at
    return appended, too_many


def _array(values: Sequence[int | str]) -> str:
    """An array of numbers or names as Postgres reads it: a tenth of the time that psycopg takes for any list."""
    return f"{{{','.join(map(str, values))}}}"


def _sparse(values: list[T | None]) -> list[T | None] | str:
    """An array that mostly holds nothing; psycopg writes one that does hold something."""
    return values if any(value is not None for value in values) else _array(["NULL"] * len(values))


def _recorded(row: Sequence[Any]) -> Recorded:
    position, subject, object_, version, type_, recorded_at, data = row
    return Recorded(position, subject, object_, version, decode(type_, data), recorded_at)


async def states_of(connection: AsyncConnection, pairs: Sequence[tuple[int, int]]) -> list[PairState]:
    """Give the state of each of ``pairs``, in their order, in one query."""
    rows = await connection.execute(
        _NEWEST, {"subjects": _array([pair[0] for pair in pairs]), "objects": _array([pair[1] for pair in pairs])}
    )
    return [PairState(row[1], row[2], _recorded(row[3:]) if row[3] is not None else None) for row in rows.all()]


async def events_at(connection: AsyncConnection, positions: Sequence[int]) -> dict[int, Recorded]:
    """Give position -> event for those of ``positions`` that exist."""
    rows = await connection.execute(_AT, {"positions": list(positions)})
    return {row[0]: _recorded(row) for row in rows}


async def read_after(engine: AsyncEngine, after: int, limit: int) -> list[Recorded]:
    """Give up to ``limit`` events behind position ``after``, in order. Never skips one: see ``append_events``.

    Straight through psycopg: SQLAlchemy's rows cost as much again as everything else that is done to read an event.
    """
    with translated_errors():
        async with engine.connect() as connection:
            driver = cast("psycopg.AsyncConnection[Any]", (await connection.get_raw_connection()).driver_connection)
            cursor = await driver.execute(_AFTER, (after, min(limit, READ_LIMIT_MAX)), prepare=True, binary=True)
            return [
                Recorded(position, subject, object_, version, _event(type_, data), at)
                for position, subject, object_, version, type_, at, data in await cursor.fetchall()
            ]


async def newest_at(
    engine: AsyncEngine, subject: int, object_: int, up_to: int, without: Collection[int] = ()
) -> Recorded | None:
    """Give a pair's newest event at position ``up_to``, as if those at the positions ``without`` were not there."""
    with translated_errors():
        async with engine.connect() as connection:
            parameters = {"subject": subject, "object": object_, "up_to": up_to, "without": list(without)}
            row = (await connection.execute(_NEWEST_AT, parameters)).first()
            if row is None:
                return None
            position, _, _, version, type_, at, data = row
            return Recorded(position, subject, object_, version, _event(type_, data), at)


def _event(type_: str, data: str | None) -> AnyEvent | Unreadable:
    """Like ``decode``, for readers, who must come past an event that cannot be read."""
    try:
        return decode(type_, data)
    except (msgspec.ValidationError, msgspec.DecodeError, KeyError) as error:
        return Unreadable(f"{type_} cannot be read: {error}")


async def recorded_at(engine: AsyncEngine, positions: Collection[int]) -> dict[int, int]:
    """Give position -> time (us) for those of ``positions`` that are in the log."""
    with translated_errors():
        async with engine.connect() as connection:
            rows = await connection.execute(_TIMES, {"positions": list(positions)})
            return {row[0]: row[1] for row in rows}


async def head(engine: AsyncEngine) -> Head:
    """Give the log's end as it is now."""
    with translated_errors():
        async with engine.connect() as connection:
            epoch, position, recorded_at, now = (await connection.execute(_HEAD)).one()
            return Head(epoch, position or 0, recorded_at or 0, now)


async def count(engine: AsyncEngine) -> int:
    """Count the events of the log; takes a second for some ten million."""
    with translated_errors():
        async with engine.connect() as connection:
            number: int = (await connection.execute(_COUNT)).scalar_one()
            return number


async def sample_users(engine: AsyncEngine, limit: int) -> tuple[list[int], int]:
    """Give the numbers of up to ``limit`` users from all over the directory, and how many users there are."""
    with translated_errors():
        async with engine.connect() as connection:
            rows = (await connection.execute(_SAMPLE, {"limit": limit})).all()
            return [row[0] for row in rows], rows[0][1] if rows else 0


async def recorded_after(engine: AsyncEngine, after: int) -> int | None:
    """Give the time (us) of the first event behind ``after``, or None: since when a reader there has been behind."""
    with translated_errors():
        async with engine.connect() as connection:
            return (await connection.execute(_RECORDED_AFTER, {"after": after})).scalar()
