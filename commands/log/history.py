"""History: the place of a moment in the log, the follows at that moment, and the events of a user."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from sqlalchemy import text

from commands.db.postgres import Engine, connected, fetch
from commands.errors import Invalid
from commands.log import event_log as log
from commands.log.fold import long_query, states
from commands.log.user_search import UserName
from commands.users import Side

_TIME: Final = "timestamptz 'epoch' + :time * interval '1 microsecond'"
_FIRST_AT_OR_AFTER: Final = text(
    "SELECT position, microseconds(recorded_at) FROM events WHERE position >= :position ORDER BY position LIMIT 1"
)
_LAST_AT_OR_BEFORE: Final = text(
    "SELECT position, microseconds(recorded_at) FROM events WHERE position <= :position ORDER BY position DESC LIMIT 1"
)
# After a clock that was ahead, times begin again from before. Without OFFSET 0 Postgres could walk all of the log.
_LAST_BY_TIME: Final = text(
    f"""SELECT max(position) FROM (
        SELECT position FROM events WHERE position > :after AND recorded_at <= {_TIME} OFFSET 0) later"""
)
_IS_LATER_BEFORE: Final = text(
    f"SELECT EXISTS (SELECT FROM events WHERE position < :position AND recorded_at > {_TIME})"
)
_ONE: Final = "(SELECT CAST(:number AS bigint) AS number, CAST(:position AS bigint) AS position) u"
_FOLLOWS: Final = {
    side: text(
        f"""SELECT s.other, coalesce(o.id, ''), o.login, o.erased_at IS NOT NULL, s.created_at, s.notifications
        FROM (SELECT t.* FROM {_ONE} CROSS JOIN LATERAL ({states(side)}) t) s LEFT JOIN users o ON o.number = s.other
        ORDER BY s.created_at DESC, s.notifications DESC, s.other DESC LIMIT :limit"""
    )
    for side in ("following", "followers")
}
_COUNT: Final = {
    side: text(f"SELECT count(*) FROM {_ONE} CROSS JOIN LATERAL ({states(side)}) t")
    for side in ("following", "followers")
}
# A user's own events are on both sides and must come once. With another user only the events between the two count,
# and either index of the pair finds them.
_MATCHING: Final = """SELECT * FROM events WHERE subject = :number {subject_with} AND {between}
    UNION ALL SELECT * FROM events WHERE object = :number AND subject <> :number {object_with} AND {between}"""
_BETWEEN: Final = "position > :after AND position <= :up_to"
_EVENTS: Final = """SELECT e.position, microseconds(e.recorded_at), e.type::text, e.data,
        e.subject, coalesce(s.id, ''), s.login, s.erased_at IS NOT NULL,
        e.object, coalesce(o.id, ''), o.login, o.erased_at IS NOT NULL
    FROM (SELECT * FROM ({matching}) m ORDER BY position DESC LIMIT :limit) e
    LEFT JOIN users s ON s.number = e.subject LEFT JOIN users o ON o.number = e.object ORDER BY e.position"""
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
    """A place in the log: the position of the last event by then, and its time (us); 0 and None before the first.

    ``goes_back``: events before it have later times than the moment that was asked for, since a clock was ahead.
    """

    position: int
    recorded_at: int | None
    goes_back: bool = False


class PastFollow(msgspec.Struct, frozen=True):
    """A follow of a user as it was: the other user, its start (us), and its notifications flag."""

    other: UserName
    created_at: int
    notifications: bool


class PastEvent(msgspec.Struct, frozen=True):
    """An event with the present names of its users; ``data`` as stored."""

    position: int
    recorded_at: int
    type: str
    data: dict[str, Any]
    subject: UserName
    object: UserName


async def moment_of_position(engine: Engine, position: int) -> Moment:
    """Return the moment of a position; raises Invalid for one beyond the log's end, which could still change."""
    end = (await log.head(engine)).position
    if position > end:
        raise Invalid(f"position {position} is beyond the log's end, {end}")
    rows = await fetch(engine, _LAST_AT_OR_BEFORE, {"position": position})
    return Moment(*rows[0]) if rows else Moment(0, None)


async def moment_of_time(engine: Engine, time: int) -> Moment:
    """Return the moment of a time (us): the last event that was not recorded after it. Raises Invalid for a time to
    come.

    Times rise with positions, so a binary search finds an event in some 30 queries. Where a clock was ahead, they begin
    again from before: then a later event may be the last one.
    """
    head = await log.head(engine)
    if time > head.now:
        raise Invalid("that time is still to come")
    found = Moment(0, None)
    low, high = 0, head.position  # the last event at or before the time is in (low, high], or is `found`
    async with connected(engine) as connection:
        while low < high:
            middle = (low + high) // 2 + 1
            position, recorded_at = (await connection.execute(_FIRST_AT_OR_AFTER, {"position": middle})).one()
            if recorded_at <= time:
                found, low = Moment(position, recorded_at), position
            else:
                high = middle - 1
        last = (await connection.execute(_LAST_BY_TIME, {"after": found.position, "time": time})).scalar_one()
        if last is not None:
            found = Moment(*(await connection.execute(_LAST_AT_OR_BEFORE, {"position": last})).one())
        later = await connection.execute(_IS_LATER_BEFORE, {"position": found.position, "time": time})
        return msgspec.structs.replace(found, goes_back=later.scalar_one())


async def follows_of(
    engine: Engine, side: Side, number: int, position: int, limit: int | None = None
) -> AsyncGenerator[PastFollow]:
    """Yield one side of a user as it was at ``position``, newest first; it is streamed, for lists of any length."""
    skipped = await log.read_skipped(engine)
    parameters: dict[str, Any] = {"number": number, "position": position, "limit": limit, "skipped": skipped}
    async with long_query(engine) as connection:
        rows = await connection.stream(_FOLLOWS[side], parameters)
        async for other, id_, login, erased, created_at, notifications in rows:
            yield PastFollow(UserName(other, id_, login, erased), created_at, notifications)


async def count_follows(engine: Engine, side: Side, number: int, position: int) -> int:
    """Count one side of a user as it was at ``position``."""
    skipped = await log.read_skipped(engine)
    async with long_query(engine) as connection:
        parameters: dict[str, Any] = {"number": number, "position": position, "skipped": skipped}
        count: int = (await connection.execute(_COUNT[side], parameters)).scalar_one()
        return count


async def events_of(
    engine: Engine, number: int, *, other: int | None = None, after: int, up_to: int, limit: int | None = None
) -> AsyncGenerator[PastEvent]:
    """Yield a user's events after ``after`` up to ``up_to`` in order, the last ``limit`` of them; it is streamed.

    With ``other``, only the events between the two users.
    """
    parameters: dict[str, Any] = {"number": number, "after": after, "up_to": up_to, "limit": limit}
    if other is not None:
        parameters["other"] = other
    async with long_query(engine) as connection:
        async for row in await connection.stream(_OF_ONE if other is None else _OF_TWO, parameters):
            position, recorded_at, type_, data, *users = row
            yield PastEvent(position, recorded_at, type_, data or {}, UserName(*users[:4]), UserName(*users[4:]))
