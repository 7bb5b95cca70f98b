"""Looking back: where in the log a moment is, who followed whom then, and what has happened to a user."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from commands import log
from commands.census import Named
from commands.errors import Invalid
from commands.folds import Side, patient, states
from commands.postgres import translated_errors

_FIRST_AT_OR_AFTER: Final = text(
    """SELECT position, (extract(epoch FROM recorded_at) * 1000000)::bigint FROM events
    WHERE position >= :position ORDER BY position LIMIT 1"""
)
_LAST_AT_OR_BEFORE: Final = text(
    """SELECT position, (extract(epoch FROM recorded_at) * 1000000)::bigint FROM events
    WHERE position <= :position ORDER BY position DESC LIMIT 1"""
)
_ONE: Final = "(SELECT CAST(:number AS bigint) AS number, CAST(:position AS bigint) AS position) u"
_FOLLOWS: Final = {
    side: text(
        f"""SELECT s.other, o.id, o.login, o.erased_at IS NOT NULL, s.created_at, s.notifications
        FROM (SELECT t.* FROM {_ONE} CROSS JOIN LATERAL ({states(side)}) t) s JOIN users o ON o.number = s.other
        ORDER BY s.created_at DESC, s.notifications DESC, s.other DESC LIMIT :limit"""
    )
    for side in ("following", "followers")
}
_COUNT: Final = {
    side: text(f"SELECT count(*) FROM {_ONE} CROSS JOIN LATERAL ({states(side)}) t")
    for side in ("following", "followers")
}
# A user's own events are on both sides and must come once. With another user only what is between the two is of
# interest, and both indexes of the pair do.
_MATCHING: Final = """SELECT * FROM events WHERE subject = :number {subject_with} AND {between}
    UNION ALL SELECT * FROM events WHERE object = :number AND subject <> :number {object_with} AND {between}"""
_BETWEEN: Final = "position > :after AND position <= :up_to"
_EVENTS: Final = """SELECT e.position, (extract(epoch FROM e.recorded_at) * 1000000)::bigint, e.type::text, e.data,
        s.number, s.id, s.login, s.erased_at IS NOT NULL, o.number, o.id, o.login, o.erased_at IS NOT NULL
    FROM (SELECT * FROM ({matching}) m ORDER BY position DESC LIMIT :limit) e
    JOIN users s ON s.number = e.subject JOIN users o ON o.number = e.object ORDER BY e.position"""
_OF_ONE: Final = text(
    _EVENTS.format(matching=_MATCHING.format(subject_with="", object_with="", between=_BETWEEN)),
)
_OF_TWO: Final = text(
    _EVENTS.format(
        matching=_MATCHING.format(
            subject_with="AND object = :other", object_with="AND subject = :other", between=_BETWEEN
        )
    ),
)


class Moment(msgspec.Struct, frozen=True):
    """A place in the log: its last event at or before it, and when that was recorded (us); 0 and None before all."""

    position: int
    recorded_at: int | None


class Follow(msgspec.Struct, frozen=True):
    """A follow as it stood: with whom, since when (us), and its flag."""

    other: Named
    created_at: int
    notifications: bool


class Happened(msgspec.Struct, frozen=True):
    """An event with the names that its users have now; ``data`` as it is stored."""

    position: int
    recorded_at: int
    type: str
    data: dict[str, Any]
    subject: Named
    object: Named


async def moment_of_position(engine: AsyncEngine, position: int) -> Moment:
    """Give the moment of a position; raises Invalid for one that the log has not reached, which could still change."""
    end = (await log.head(engine)).position
    if position > end:
        raise Invalid(f"position {position} is beyond the log's end, {end}")
    with translated_errors():
        async with engine.connect() as connection:
            row = (await connection.execute(_LAST_AT_OR_BEFORE, {"position": position})).first()
    return Moment(0, None) if row is None else Moment(row[0], row[1])


async def moment_of_time(engine: AsyncEngine, time: int) -> Moment:
    """Give the last event recorded at or before ``time`` (us); raises Invalid for a time to come.

    Times rise strictly with positions, so it is found by halves, in some 30 look-ups, without an index of times.
    """
    head = await log.head(engine)
    if time > head.now:
        raise Invalid("that time is still to come")
    found = Moment(0, None)
    low, high = 0, head.position  # the last event at or before the time is in (low, high], or is `found`
    with translated_errors():
        async with engine.connect() as connection:
            while low < high:
                middle = (low + high) // 2 + 1
                position, recorded_at = (await connection.execute(_FIRST_AT_OR_AFTER, {"position": middle})).one()
                if recorded_at <= time:
                    found, low = Moment(position, recorded_at), position
                else:
                    high = middle - 1
    return found


async def follows_of(
    engine: AsyncEngine, side: Side, number: int, position: int, limit: int | None = None
) -> AsyncGenerator[Follow]:
    """Give one side of a user as it was at ``position``, newest first; streamed, so that no list is too long."""
    parameters: dict[str, Any] = {"number": number, "position": position, "limit": limit, "skipped": []}
    async with patient(engine) as connection:
        async for other, id_, login, erased, created_at, notifications in await connection.stream(
            _FOLLOWS[side], parameters
        ):
            yield Follow(Named(other, id_, login, erased), created_at, notifications)


async def count_follows(engine: AsyncEngine, side: Side, number: int, position: int) -> int:
    """Count one side of a user as it was at ``position``."""
    async with patient(engine) as connection:
        parameters: dict[str, Any] = {"number": number, "position": position, "skipped": []}
        count: int = (await connection.execute(_COUNT[side], parameters)).scalar_one()
        return count


async def events_of(
    engine: AsyncEngine, number: int, *, other: int | None = None, after: int, up_to: int, limit: int | None = None
) -> AsyncGenerator[Happened]:
    """Give a user's events behind ``after`` up to ``up_to`` in order, the last ``limit`` of them; streamed.

    With ``other``, only what has been between the two.
    """
    parameters: dict[str, Any] = {"number": number, "after": after, "up_to": up_to, "limit": limit}
    if other is not None:
        parameters["other"] = other
    async with patient(engine) as connection:
        async for row in await connection.stream(_OF_ONE if other is None else _OF_TWO, parameters):
            position, recorded_at, type_, data, *users = row
            yield Happened(position, recorded_at, type_, data or {}, Named(*users[:4]), Named(*users[4:]))
