"""Bring a database to the schema of this version; safe to run twice and from several processes at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from commands.db.blockers import Blockers
from commands.db.postgres import PostgresSettings, connect_once
from commands.db.rights import grant_rights
from commands.db.schema import FORMER_VERSION_TABLE, VERSION_TABLE, find_schema, revision_in
from commands.db.session import SessionNeeds
from commands.db.unavailable import refused_in_words, sqlstate, translated_errors
from commands.errors import SettingsError

logger: Final = logging.getLogger(__name__)

# While a migration waits for a table's lock, later sessions wait behind it: commands for at most this long.
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
    database_url: str,
    *,
    grant_to: Sequence[str] = (),
    transaction_pooling: bool = False,
    tries: int = MIGRATION_TRIES,
    on_wait: Callable[[str], None] = logger.warning,
) -> str:
    """Run the missing migrations and replace the SQL functions; return the revision that the database is at.

    The roles ``grant_to`` get the rights that processes and tools need. In a database of a newer version nothing is
    changed, and the revision is that version's.

    A lock that is not free within a second is tried again after a pause, ``tries`` times in all; ``on_wait`` is called
    with a line that names the session in the way. Raises SettingsError when the last try fails, for a database of
    another version and for a server that must not hold the log, LogUnavailable, and SQLAlchemy's other errors.
    """
    settings = PostgresSettings(database_url, transaction_pooling=transaction_pooling)
    with refused_in_words(), translated_errors():
        for tried in range(1, tries + 1):
            blockers = Blockers()
            try:
                return _upgrade(settings, blockers, grant_to)
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


def _upgrade(settings: PostgresSettings, blockers: Blockers, grant_to: Sequence[str]) -> str:
    """Migrate in one transaction, while ``blockers`` looks for the session that it waits for; return the revision."""
    connect = partial(connect_once, settings, MIGRATION_NEEDS)
    engine = create_engine("postgresql+psycopg://", creator=partial(connect, autocommit=False), poolclass=NullPool)
    config = _config()
    head = ScriptDirectory.from_config(config).get_revision("head")
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()  # a pooler's connect names another one
        with blockers.watching(partial(connect, autocommit=True), pid):
            found, ours = find_schema(connection), revision_in(connection, VERSION_TABLE)
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
            for role in grant_to:
                grant_rights(connection, role)
            connection.commit()
            return head.revision
