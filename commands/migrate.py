"""Bring a database to the schema of this version; safe to run twice and from several places at once."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine

from commands.errors import SettingsError
from commands.postgres import driver_url, translated_errors


def _config() -> Config:
    config = Config()
    # Alembic reads its options through configparser, where a percent sign in the path would be an escape.
    config.set_main_option("script_location", str(files("commands").joinpath("migrations")).replace("%", "%%"))
    return config


def upgrade(database_url: str) -> None:
    """Run the migrations that are missing and refresh the SQL functions; raises what SQLAlchemy raises."""
    engine = create_engine(driver_url(database_url))
    config = _config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    engine.dispose()


def newest_revision() -> str | None:
    """The revision that this version of the code is written for."""
    return ScriptDirectory.from_config(_config()).get_current_head()


async def check_current(engine: AsyncEngine) -> None:
    """Refuse to run on a database without this version's migrations; raises SettingsError or LogUnavailable."""

    def revision(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    with translated_errors():
        async with engine.connect() as connection:
            found = await connection.run_sync(revision)
    if found != newest_revision():
        raise SettingsError(f"the database is at revision {found}, not {newest_revision()}: run `follows migrate`")
