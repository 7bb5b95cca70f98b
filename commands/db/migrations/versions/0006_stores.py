"""Leases, builds and parked events are about one Redis, by its word: docs/decisions/0026-who-feeds-a-redis.md."""

from alembic import op

revision = "0006_stores"
down_revision = "0005_processes"
# The version before writes "", which stands for the only Redis that there is.
compatible_with = "0002_histories"

_STATEMENTS = (
    "ALTER TABLE lease_owners ADD COLUMN store text NOT NULL DEFAULT '', ADD COLUMN runs text NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN store text NOT NULL DEFAULT '', DROP CONSTRAINT leases_pkey",
    "ALTER TABLE leases ADD PRIMARY KEY (store, name)",
    "ALTER TABLE generations ADD COLUMN store text NOT NULL DEFAULT '', DROP CONSTRAINT generations_one_live",
    """ALTER TABLE generations ADD CONSTRAINT generations_one_live
    EXCLUDE USING btree (store WITH =, state WITH =) WHERE (state = 'live') DEFERRABLE""",
    "ALTER TABLE parked ADD COLUMN store text NOT NULL DEFAULT '', DROP CONSTRAINT parked_pkey",
    "ALTER TABLE parked ADD PRIMARY KEY (store, position)",
    # The version before knows only the pause of all Redis, with only_one true. In the pause of one Redis it is null.
    "ALTER TABLE pauses DROP CONSTRAINT pauses_pkey, ALTER COLUMN only_one DROP NOT NULL, ADD UNIQUE (only_one)",
    "ALTER TABLE pauses ADD COLUMN store text PRIMARY KEY DEFAULT ''",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
