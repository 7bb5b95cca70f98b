"""How many each user follows, for the limit on it: a table that may be lost, since the log can be counted again."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    # Unlogged: a crash empties it and a standby has none of it, and who is missing in it is counted at his next follow.
    "CREATE UNLOGGED TABLE follow_counts (number bigint PRIMARY KEY, following bigint NOT NULL)",
    # It has one argument more now.
    "DROP FUNCTION IF EXISTS append_events(bigint[], bigint[], integer[], event_type[], jsonb[], uuid[], bytea[])",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
