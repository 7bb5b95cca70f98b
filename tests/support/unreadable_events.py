"""Events that this version of the code cannot read, and events behind them."""

from commands.db.postgres import Engine
from commands.events import AnyEvent
from commands.log import event_log as log
from commands.log.event_log import Draft
from tests.support.log_writes import Connection, rows

INSERT = """INSERT INTO events (position, subject, object, version, type, recorded_at, data)
VALUES (nextval('events_position'), %s, %s, %s, %s, next_recorded_at(), %s) RETURNING position"""
DATA = '{"notifications": 5, "viewers": "x"}'


def write_unreadable(sql: Connection, pair: tuple[int, int], version: int, type_: str = "UserFollowed") -> int:
    """Append an event that this version cannot read; return its position."""
    return int(rows(sql, INSERT, [*pair, version, type_, DATA])[0][0])


def write_unknown(sql: Connection, pair: tuple[int, int], version: int) -> int:
    """Append an event of a kind that only a newer version knows; return its position."""
    sql.execute("ALTER TYPE event_type ADD VALUE IF NOT EXISTS 'UserMuted'")
    return write_unreadable(sql, pair, version, "UserMuted")


async def append_behind(engine: Engine, pair: tuple[int, int], version: int, *events: AnyEvent) -> int:
    """Append to a pair whose newest event the write side cannot read either; return the last position."""
    async with engine.connect() as connection:
        for at, event in enumerate(events, version):
            written = await log.append(connection, [Draft(*pair, at, event)])
    return written[0][0]


def make_readable(sql: Connection, position: int) -> None:
    """Change the event to one that this version reads, as a new version of the code would."""
    sql.execute("SET session_replication_role = replica")
    known = "CASE type::text WHEN 'UserMuted' THEN 'UserFollowed' ELSE type END"
    sql.execute(f"UPDATE events SET data = NULL, type = {known} WHERE position = %s".encode(), [position])
    sql.execute("SET session_replication_role = origin")
