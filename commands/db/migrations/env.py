"""Alembic runs this: the migrations, then the SQL functions of this version of the code."""

from importlib.resources import files

from alembic import context
from sqlalchemy import Connection, text

# Every upgrade replaces all functions, in this order. A changed signature needs a migration that drops the old one.
FUNCTION_FILES = (
    "log_functions.sql",
    "follow_counts.sql",
    "append_events.sql",
    "users.sql",
    "end_follows.sql",
    "import_follows.sql",
    "leases.sql",
)


def _run(connection: Connection, table: str, former: str | None, lock_timeout_ms: int, compatible_with: str) -> None:
    """Migrate; ``table`` has the revision, and ``former`` had it in development versions if it is given.

    ``compatible_with`` is the oldest revision whose code may run on the newest schema.

    Waiting for another migration blocks nothing, so it has no limit; waiting for a table's lock does.
    """
    context.configure(connection=connection, version_table=table)
    with context.begin_transaction():
        connection.execute(text("SELECT set_config('lock_timeout', '0', true)"))
        connection.execute(text("SELECT pg_advisory_xact_lock(4071935)"))  # one migration at a time
        connection.execute(text(f"SELECT set_config('lock_timeout', '{lock_timeout_ms}', true)"))
        if former is not None:
            connection.execute(text(f"ALTER TABLE IF EXISTS {former} RENAME TO {table}"))
        context.run_migrations()
        noted = f"UPDATE {table} SET compatible_with = :oldest WHERE compatible_with IS DISTINCT FROM :oldest"
        connection.execute(text(noted), {"oldest": compatible_with})
        for name in FUNCTION_FILES:
            connection.exec_driver_sql(files("commands.db").joinpath("sql", name).read_text().replace("%", "%%"))


_run(**context.config.attributes)
