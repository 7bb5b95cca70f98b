"""Commands look for the parked events of their pair."""

from alembic import op

revision = "0003_parked"
down_revision = "0002_histories"

_STATEMENTS = (
    "CREATE INDEX parked_pair ON parked (subject, object)",
    # Their results have more columns.
    "DROP FUNCTION IF EXISTS import_follows",
    "DROP FUNCTION IF EXISTS last_events_of_pairs",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
