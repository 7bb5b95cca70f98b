"""Looks at the log's end, for a process that must know what others have committed: the head, and the writers since."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection

from commands.db.identity import SERVER_RUN, Origin
from commands.db.postgres import Engine, PostgresSettings, connected, connected_within, create_engine
from commands.errors import LogUnavailable
from commands.log import event_log as log

# A look that takes longer has failed: four of them in a row are two seconds.
LOG_LOOK_TIMEOUT_S: Final = 0.5
# Batches whose words a process remembers; the log is asked for older ones.
BATCHES_MAX: Final = 10_000
# Means the directory: what an id or login leads to, and which users exist.
DIRECTORY: Final = 0

# Nothing here is prepared: behind a pooler, each statement may run on another session.
_LOOK: Final = f"""SELECT h.position, word_at(h.position), word_at(%s), pg_is_in_recovery(),
        (SELECT system_identifier::text FROM pg_control_system()),
        (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
        ARRAY(SELECT DISTINCT store FROM lease_owners WHERE projects AND store <> ''), {SERVER_RUN}
    FROM (SELECT coalesce(max(position), 0) AS position FROM events) h"""
_BATCHES: Final = """SELECT last_position, word, quiet, actors FROM batches
    WHERE last_position > %s
      AND last_position <= coalesce((SELECT min(last_position) FROM batches WHERE last_position >= %s), %s)
    ORDER BY last_position"""
_EVENTS: Final = """SELECT e.position, u.id, e.subject, e.object
    FROM unnest(%s::bigint[], %s::bigint[]) AS r (after, up_to)
    JOIN events e ON e.position > r.after AND e.position <= r.up_to
    JOIN users u ON u.number = e.subject"""


class Look(NamedTuple):
    """The log's last position (0 when empty) with its word, and the word of the position that was asked about.

    A word is None after the last batch: the position is beyond the head, or its event was inserted by hand. ``origin``
    is the database that has answered, and ``fed`` the words of all Redis that workers feed from this log. ``run`` is
    that of its server, as ``read_server_run`` has it.
    """

    position: int
    word: int | None
    word_asked: int | None
    origin: Origin | None = None
    fed: frozenset[str] = frozenset()
    run: str = ""


class Mark(NamedTuple):
    """A caller's write: the caller's id, a user that it touched or DIRECTORY, and the position."""

    caller: str
    number: int
    position: int


class Written(NamedTuple):
    """What a part of the log says: its batches as (last position, word) in order, and the marks of all that is not
    quiet."""

    batches: list[tuple[int, int]]
    marks: list[Mark]


class Looks(Protocol):
    """The log, as ``LogLooks`` reads it."""

    async def look(self, known: int) -> Look: ...

    async def written(self, after: int, up_to: int, *, older: bool = False) -> Written: ...

    async def words_at(self, positions: Collection[int]) -> dict[int, int | None]: ...

    async def close(self) -> None: ...


class BatchWords:
    """The words of the latest batches, which follow each other without a gap."""

    def __init__(self, *first: tuple[int, int]) -> None:
        """``first`` is the batch to begin with, if any, as (last position, word)."""
        self._lasts, self._words = [last for last, _ in first], [word for _, word in first]

    def extend(self, batches: Iterable[tuple[int, int]]) -> None:
        """Add later batches; those that are there already are passed over."""
        lasts, words = self._lasts, self._words
        for last, word in batches:
            if not lasts or last > lasts[-1]:
                lasts.append(last)
                words.append(word)
        if len(lasts) > 2 * BATCHES_MAX:
            del lasts[:-BATCHES_MAX], words[:-BATCHES_MAX]

    def at(self, position: int) -> int | None:
        """Return the word of a position; None when it is older or later than these batches."""
        place = bisect_left(self._lasts, position)
        is_known = place < len(self._lasts) and position >= self._lasts[0]
        return self._words[place] if is_known else None


class LogLooks:
    """Looks on a connection of their own, and reads of older parts of the log on the pool of the process."""

    def __init__(
        self,
        settings: PostgresSettings,
        engine: Engine,
        timeout_s: float = LOG_LOOK_TIMEOUT_S,
    ) -> None:
        self._own = create_engine(settings, timeout_s=timeout_s, for_looks=True)
        self._engine, self._timeout_s = engine, timeout_s

    async def look(self, known: int) -> Look:
        """Look at the head, and for the word of ``known``. Raises LogUnavailable, also on a standby."""
        async with connected_within(self._own, self._timeout_s) as connection:
            [(position, word, word_asked, is_standby, system, oid, fed, run)] = await _rows(connection, _LOOK, known)
        if is_standby:
            raise LogUnavailable
        return Look(position, word, word_asked, Origin(system, oid), frozenset(fed), run)

    async def written(self, after: int, up_to: int, *, older: bool = False) -> Written:
        """Return what was written after ``after`` and up to ``up_to``. Raises LogUnavailable.

        ``older`` parts are read on the pool, so that looks need not wait for them.
        """
        async with connected(self._engine) if older else connected_within(self._own, self._timeout_s) as connection:
            batches = await _rows(connection, _BATCHES, after, up_to, up_to)
            begins, ends = _ranges(batches, after, up_to)
            events = await _rows(connection, _EVENTS, begins, ends) if begins else []
        return Written([(last, word) for last, word, _, _ in batches], _marks(events, batches))

    async def words_at(self, positions: Collection[int]) -> dict[int, int | None]:
        """Return position -> word, without the positions beyond the head. Raises LogUnavailable."""
        return await log.words_at(self._engine, positions)

    async def close(self) -> None:
        """Close the own connection."""
        await self._own.dispose()


async def _rows(connection: AsyncConnection, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run a statement by psycopg itself, unprepared: SQLAlchemy's rows would double the cost of an event."""
    driver = cast("psycopg.AsyncConnection[Any]", (await connection.get_raw_connection()).driver_connection)
    cursor = await driver.execute(statement.encode(), parameters, prepare=False, binary=True)
    return await cursor.fetchall()


def _ranges(batches: Sequence[tuple[Any, ...]], after: int, up_to: int) -> tuple[list[int], list[int]]:
    """Return the ranges of positions (after, up to] that are not quiet, as two lists; what no batch holds is not."""
    begins, ends = list[int](), list[int]()
    at = after
    for last, quiet in [*((row[0], row[2]) for row in batches), (up_to, False)]:
        last = min(last, up_to)
        if not quiet and last > at:
            if ends and ends[-1] == at:
                ends[-1] = last
            else:
                begins.append(at)
                ends.append(last)
        at = max(at, last)
    return begins, ends


def _marks(events: Sequence[tuple[Any, ...]], batches: Sequence[tuple[Any, ...]]) -> list[Mark]:
    marks = list[Mark]()
    lasts = [row[0] for row in batches] if any(row[3] for row in batches) else []
    for position, caller, subject, object_ in events:
        marks.append(Mark(caller, object_, position))
        marks.append(Mark(caller, DIRECTORY if subject == object_ else subject, position))
        at = bisect_left(lasts, position)
        for actor in (batches[at][3] or ()) if at < len(lasts) else ():
            marks += [Mark(actor, object_, position), Mark(actor, DIRECTORY, position)]
    return marks
