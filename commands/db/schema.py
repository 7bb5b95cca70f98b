"""The schema of a database: whether this version may run on it. Nothing here loads alembic, which migrates it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Final, NamedTuple

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from commands.db.postgres import Engine, connected
from commands.errors import Invalid, SettingsError

# The former one is alembic's own name, which another application on the same database may use as well.
VERSION_TABLE: Final = "follows_version"
FORMER_VERSION_TABLE: Final = "alembic_version"
# Some of the first migration's tables, by which a database of another version or application is recognised.
TABLES: Final = ["events", "users", "erasures", "command_answers", "log_identity", "leases", "generations", "parked"]
_TAKEN: Final = text(
    """SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
    AND relname = ANY(CAST(:names AS name[])) ORDER BY relname"""
)
# Development versions lack the column; one row, made by the first migration.
_COMPATIBLE_WITH: Final = text(f"SELECT to_jsonb(v) ->> 'compatible_with' FROM {VERSION_TABLE} v")
_IS_THERE: Final = text("SELECT to_regclass(quote_ident(:name)) IS NOT NULL")
# Oldest first: each migration is a file with the name of its revision.
REVISIONS: Final = sorted(
    file.name.removesuffix(".py")
    for file in files("commands.db").joinpath("migrations", "versions").iterdir()
    if file.name.endswith(".py")
)
NEWEST_REVISION: Final = REVISIONS[-1]


class Schema(NamedTuple):
    """The schema of a database: its revision, and whether a newer version has made it. Then this one may run on it."""

    revision: str
    is_newer: bool


async def check_current(engine: Engine) -> None:
    """Raise SettingsError unless this version may run on the database: it has this version's migrations, or newer ones
    that allow it. Raises LogUnavailable.
    """
    async with connected(engine) as connection:
        found = await connection.run_sync(find_schema)
    if found is None:
        raise SettingsError("the database has no tables of Follows yet: run `follows migrate`")
    if not found.is_newer and found.revision != NEWEST_REVISION:
        raise SettingsError(
            f"the database is at revision {found.revision}, older than {NEWEST_REVISION} of this version: "
            "run `follows migrate`"
        )


@asynccontextmanager
async def schema_errors_explained(engine: Engine) -> AsyncIterator[None]:
    """Check the schema when PostgreSQL refuses a statement in the block, as it does when a table or column is missing.

    Also after `Invalid`, such as for a view that is not found: a database without tables has none. Raises what
    `check_current` raises, or the block's own error when the schema is this version's.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error, Invalid):
        await check_current(engine)
        raise


def find_schema(connection: Connection) -> Schema | None:
    """Return the schema of the database, None if it has no tables of Follows.

    Raises SettingsError for tables that this version has not made, and for a newer schema that it may not run on.
    """
    ours = revision_in(connection, VERSION_TABLE)
    revision = ours or revision_in(connection, FORMER_VERSION_TABLE)
    if revision is not None and revision in REVISIONS:
        return Schema(revision, is_newer=False)
    oldest = connection.execute(_COMPATIBLE_WITH).scalars().first() if ours is not None else None
    if ours is not None and oldest in REVISIONS:
        return Schema(ours, is_newer=True)
    if oldest is not None:
        raise SettingsError(
            f"the database is newer than this version: it is at revision {ours}, on which only versions from revision "
            f"{oldest} on may run, and this version is at {NEWEST_REVISION}: upgrade this process"
        )
    taken = connection.execute(_TAKEN, {"names": TABLES}).scalars().all()
    if ours is None and not taken:  # the former table is another application's
        return None
    raise SettingsError(
        f"the database has tables that this version of Follows has not made ({', '.join(taken) or VERSION_TABLE}; "
        f"revision {revision} is unknown here). They are another application's, or those of a newer version: give "
        f"another DATABASE_URL, or run the version that made them. Those of an older development version are not "
        f"migrated: start with an empty database (with `follows up`, use another --data folder)"
    )


def revision_in(connection: Connection, table: str) -> str | None:
    """Return the revision that a table of revisions has, None when there is no such table, or several revisions: it is
    another application's then."""
    if not connection.execute(_IS_THERE, {"name": table}).scalar_one():
        return None
    found = connection.execute(text(f"SELECT to_jsonb(v) ->> 'version_num' FROM {table} v")).scalars().all()
    return found[0] if len(found) == 1 else None
