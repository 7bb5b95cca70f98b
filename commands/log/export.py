"""Export of follows and users as streams, in the form that an import reads; memory stays flat for any size."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, NamedTuple, cast

import psycopg
from sqlalchemy import text

from commands.db.postgres import Engine, transaction
from commands.log.event_log import SKIPPED
from commands.log.fold import CREATED_AT, KNOWN_KIND, NOTIFICATIONS
from commands.users import UserChanges

Format = Literal["csv", "ndjson"]

# Followers per COPY: statements are short, and the progress is known, since numbers rise.
FOLLOWERS_PER_COPY: Final = 5_000
FOLLOW_COLUMNS: Final = ("follower", "followed", "created_at", "notifications")
USER_COLUMNS: Final = ("id", *UserChanges.__struct_fields__)

# Each pair's last event up to a position, of those that this version can read and no operator has skipped. Follows of
# users who are erased by now are left out.
_FOLLOWS: Final = f"""FROM (
        SELECT DISTINCT ON (e.subject, e.object) e.subject, e.object, e.type, e.data, e.recorded_at FROM events e
        WHERE e.subject > %(after)s AND e.subject <= %(up_to)s AND e.object <> e.subject AND e.position <= %(position)s
            AND {KNOWN_KIND} AND e.position <> ALL ({SKIPPED})
        ORDER BY e.subject, e.object, e.version DESC) n
    JOIN users f ON f.number = n.subject AND f.erased_at IS NULL
    JOIN users o ON o.number = n.object AND o.erased_at IS NULL
    CROSS JOIN LATERAL (
        SELECT to_char(timestamptz 'epoch' + ({CREATED_AT}) * interval '1 microsecond',
                       'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            CASE WHEN {NOTIFICATIONS} THEN 'true' ELSE 'false' END AS notifications) t
    WHERE n.type <> 'UserUnfollowed' ORDER BY n.subject, n.object"""
# Ids and times hold no character that CSV, JSON or COPY would escape.
_COPY_FOLLOWS: Final[dict[Format, str]] = {
    "csv": f"COPY (SELECT f.id, o.id, t.created_at, t.notifications {_FOLLOWS}) TO STDOUT (FORMAT csv)",
    "ndjson": f"""COPY (SELECT '{{"follower":"' || f.id || '","followed":"' || o.id || '","created_at":"'
        || t.created_at || '","notifications":' || t.notifications || '}}' {_FOLLOWS}) TO STDOUT""",
}
_COPY_USERS: Final = """COPY (SELECT number, id, login, display_name, profile FROM users
    WHERE erased_at IS NULL ORDER BY number) TO STDOUT"""
# A stream lasts as long as its reader takes.
_LIMITS: Final = text("SELECT set_config('statement_timeout', '0', true), set_config('timezone', 'UTC', true)")


class Chunk(NamedTuple):
    """The follows of the next followers: their count, the last follower's number, and their lines."""

    follows: int
    up_to: int
    lines: list[bytes]


class ExportedUser(NamedTuple):
    """A user's columns; ``profile`` is JSON text."""

    number: int
    id: str
    login: str
    display_name: str
    profile: str


async def stream_follows(
    engine: Engine, position: int, last: int, form: Format, *, followers_per_copy: int = FOLLOWERS_PER_COPY
) -> AsyncGenerator[Chunk]:
    """Yield every follow as it was at ``position``, by the number of the follower, up to the user ``last``."""
    for after in range(0, last, followers_per_copy):
        parameters = {"after": after, "up_to": after + followers_per_copy, "position": position}
        async with _copy_cursor(engine) as cursor:
            async with cursor.copy(_COPY_FOLLOWS[form], parameters) as copy:
                lines = [bytes(block) async for block in copy]
            yield Chunk(cursor.rowcount, min(after + followers_per_copy, last), lines)


async def stream_users(engine: Engine) -> AsyncGenerator[ExportedUser]:
    """Yield every user who is not erased, by number, all as of one moment."""
    async with _copy_cursor(engine) as cursor, cursor.copy(_COPY_USERS) as copy:
        async for number, id_, login, display_name, profile in copy.rows():
            yield ExportedUser(int(number or 0), str(id_), str(login), str(display_name), str(profile))


@asynccontextmanager
async def _copy_cursor(engine: Engine) -> AsyncIterator[psycopg.AsyncCursor[Any]]:
    """Lend a psycopg cursor in a transaction of its own, for COPY, which SQLAlchemy does not offer."""
    async with transaction(engine, _LIMITS) as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        async with cast("psycopg.AsyncConnection[Any]", driver).cursor() as cursor:
            yield cursor
