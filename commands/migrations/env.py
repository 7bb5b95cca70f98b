"""What Alembic runs: the migrations, then the SQL functions as this version of the code has them."""

from importlib.resources import files

from alembic import context
from sqlalchemy import Connection, text

# Functions are replaced as a whole at each upgrade, in this order; a changed signature needs a migration that drops.
FUNCTION_FILES = (
    "log_functions.sql",
    "follow_counts.sql",
    "append_events.sql",
    "users.sql",
    "end_follows.sql",
    "import_follows.sql",
    "leases.sql",
)


def run(connection: Connection) -> None:
    context.configure(connection=connection)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(4071935)"))  # one migration at a time
        context.run_migrations()
        for name in FUNCTION_FILES:
            connection.exec_driver_sql(files("commands").joinpath("sql", name).read_text().replace("%", "%%"))


run(context.config.attributes["connection"])
