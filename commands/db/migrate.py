"""Bring a database to the schema of this version; safe to run twice and from several processes at once."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any, Final, NamedTuple, cast

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from commands.db.blockers import Blockers
from commands.db.postgres import Engine, PostgresSettings, connect_once, connected
from commands.db.session import SessionNeeds
from commands.db.unavailable import refused_in_words, sqlstate, translated_errors
from commands.errors import Invalid, SettingsError

logger: Final = logging.getLogger(__name__)

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
# While a migration waits for a table's lock, all who come later wait behind it: commands for at most this long.
MIGRATION_LOCK_TIMEOUT_MS: Final = 1_000
# What has waited behind one try is done before the next one.
MIGRATION_PAUSE_S: Final = 2.0
# Some three minutes. A reader that takes longer has to be ended, or the migration is run again later.
MIGRATION_TRIES: Final = 60
# An index on a long log takes as long as it takes. A lost migration runs again.
MIGRATION_NEEDS: Final = SessionNeeds(
    {"lock_timeout": MIGRATION_LOCK_TIMEOUT_MS, "statement_timeout": 0}, durable=False
)
# A lock that was not free in time, and a deadlock with another session.
_LOCK_STATES: Final = frozenset({"55P03", "40P01"})


def _config() -> Config:
    config = Config()
    # Alembic reads its options through configparser, where a percent sign in the path would be an escape.
    config.set_main_option("script_location", str(files("commands.db").joinpath("migrations")).replace("%", "%%"))
    return config


def upgrade_database(
    database_url: str, *, tries: int = MIGRATION_TRIES, on_wait: Callable[[str], None] = logger.warning
) -> str:
    """Run the missing migrations and replace the SQL functions; return the revision that the database is at.

    It is another one than this version's when the database is newer; nothing is changed then.

    A lock that is not free within a second is tried again after a pause, ``tries`` times in all; ``on_wait`` is called
    with a line that names the session in the way. Raises SettingsError when that was in vain, for a database of another
    version and for a server that must not hold the log, LogUnavailable, and SQLAlchemy's other errors.
    """
    settings = PostgresSettings(database_url)
    with refused_in_words(), translated_errors():
        for tried in range(1, tries + 1):
            blockers = Blockers()
            try:
                return _upgrade(settings, blockers)
            except DBAPIError as error:
                if sqlstate(error) not in _LOCK_STATES:
                    raise
            in_the_way = blockers.found or "another session"
            if tried < tries:
                on_wait(
                    f"a lock is held by {in_the_way}; trying again in {MIGRATION_PAUSE_S:g} s (try {tried} of {tries})"
                )
                time.sleep(MIGRATION_PAUSE_S)
    raise SettingsError(
        f"the database was not migrated, and is as before: in {tries} tries a lock was not free within a second. It is "
        f"held by {in_the_way}. End that session (SELECT pg_terminate_backend(PID)) or run `follows migrate` later"
    )


def _upgrade(settings: PostgresSettings, blockers: Blockers) -> str:
    """Migrate in one transaction, while ``blockers`` looks for the session that it waits for; return the revision."""
    connect = partial(connect_once, settings, MIGRATION_NEEDS)
    engine = create_engine("postgresql+psycopg://", creator=partial(connect, autocommit=False), poolclass=NullPool)
    config = _config()
    head = ScriptDirectory.from_config(config).get_revision("head")
    with engine.connect() as connection:
        pid = cast("psycopg.Connection[Any]", connection.connection.driver_connection).info.backend_pid
        with blockers.watching(partial(connect, autocommit=True), pid):
            found, ours = _find_schema(connection), _revision(connection, VERSION_TABLE)
            if found is not None and found.is_newer:
                return found.revision
            former = FORMER_VERSION_TABLE if found and not ours else None
            config.attributes.update(
                connection=connection,
                table=VERSION_TABLE,
                former=former,
                lock_timeout_ms=MIGRATION_LOCK_TIMEOUT_MS,
                compatible_with=head.module.compatible_with,
            )
            command.upgrade(config, "head")
            connection.commit()
            return head.revision


def newest_revision() -> str | None:
    """Return the revision that this version of the code is written for."""
    return ScriptDirectory.from_config(_config()).get_current_head()


async def check_current(engine: Engine) -> None:
    """Raise SettingsError unless this version may run on the database: it has this version's migrations, or newer ones
    that say so. Raises LogUnavailable.
    """
    async with connected(engine) as connection:
        found = await connection.run_sync(_find_schema)
    if found is None:
        raise SettingsError("the database has no tables of Follows yet: run `follows migrate`")
    if not found.is_newer and found.revision != newest_revision():
        raise SettingsError(
            f"the database is at revision {found.revision}, older than {newest_revision()} of this version: "
            "run `follows migrate`"
        )


class Schema(NamedTuple):
    """The schema of a database: its revision, and whether a newer version has made it. Then this one may run on it."""

    revision: str
    is_newer: bool


@asynccontextmanager
async def schema_errors_explained(engine: Engine) -> AsyncIterator[None]:
    """Check the schema when PostgreSQL refuses a statement in the block, as it does when a table or column is missing.

    The same when something is not found: without the tables there is no view either. Raises what `check_current`
    raises, or the block's own error when the schema is this version's.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error, Invalid):
        await check_current(engine)
        raise


def _find_schema(connection: Connection) -> Schema | None:
    """Return the schema of the database, None where there are no tables of ours.

    Raises SettingsError for tables that this version has not made, and for a newer schema that it may not run on.
    """
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    ours = _revision(connection, VERSION_TABLE)
    revision = ours or _revision(connection, FORMER_VERSION_TABLE)
    if revision is not None and revision in known:
        return Schema(revision, is_newer=False)
    oldest = connection.execute(_COMPATIBLE_WITH).scalars().first() if ours is not None else None
    if ours is not None and oldest in known:
        return Schema(ours, is_newer=True)
    if oldest is not None:
        raise SettingsError(
            f"the database is newer than this version: it is at revision {ours}, on which only versions from revision "
            f"{oldest} on may run, and this version is at {newest_revision()}: upgrade this process"
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


def _revision(connection: Connection, table: str) -> str | None:
    try:
        return MigrationContext.configure(connection, opts={"version_table": table}).get_current_revision()
    except CommandError:  # another application's history has several branches
        return None
