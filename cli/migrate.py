"""`follows migrate`: the database's schema as this version needs it."""

import click

from cli.errors import plain_database_errors
from commands.migrate import newest_revision, upgrade
from commands.postgres import PostgresSettings, translated_errors


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date.

    Safe to run twice, from several places at once, and while the service is running. DATABASE_URL names the database.
    """
    settings = PostgresSettings.from_env()
    with plain_database_errors(), translated_errors():
        upgrade(settings.database_url)
    click.echo(f"the database is at revision {newest_revision()}")
