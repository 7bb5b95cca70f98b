"""`follows migrate`: bringing the database to this version's schema."""

import click

from cli.errors import plain_database_errors
from commands.db.migrate import MIGRATION_TRIES, upgrade_database
from commands.db.postgres import PostgresSettings
from commands.db.schema import NEWEST_REVISION


@click.command()
@click.option(
    "--tries",
    type=click.IntRange(1),
    default=MIGRATION_TRIES,
    show_default=True,
    metavar="N",
    help="Give up after N tries, three seconds each.",
)
@click.option("--grant", "roles", multiple=True, metavar="ROLE", help="Let ROLE run processes and tools; repeatable.")
def migrate(tries: int, roles: tuple[str, ...]) -> None:
    """Bring the database's schema up to date.

    Safe to run twice, from several places at once, and while the service is running. DATABASE_URL names the database.

    A database that is newer than this version is left as it is. The exit code is 0 when this version may run on it.

    ROLE must exist, and gets no more than it needs: it cannot change the schema, nor an event. Without it, processes
    run as the role that owns the tables, or with rights that were granted otherwise.

    A table's lock is waited for one second at most, so that commands do not queue up behind the migration. Then it
    is tried again; a line names the session that holds the lock. The exit code is 1 when all tries failed.
    """
    settings = PostgresSettings.from_env()
    with plain_database_errors():
        found = upgrade_database(
            settings.database_url,
            transaction_pooling=settings.transaction_pooling,
            grant_to=roles,
            tries=tries,
            on_wait=lambda line: click.echo(line, err=True),
        )
    if found == NEWEST_REVISION:
        click.echo(f"the database is at revision {found}")
    else:
        click.echo(
            f"the database is newer than this version, which may run on it: revision {found}; nothing was changed"
        )
