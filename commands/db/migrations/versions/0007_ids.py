"""Ids may be what identity providers put into `sub`: docs/decisions/0033-ids-of-identity-providers.md.

The rows that are there fit the wider rule, so it is not checked for them: that would hold up commands.
"""

from alembic import op

revision = "0007_ids"
down_revision = "0006_stores"
# The version before refuses the callers of such ids, and shows them in lists.
compatible_with = "0002_histories"

_STATEMENTS = (
    "ALTER TABLE users DROP CONSTRAINT users_id_check",
    """ALTER TABLE users ADD CONSTRAINT users_id_check
    CHECK (id ~ '^[0-9A-Za-z_-][0-9A-Za-z._:@|~+=-]{0,127}$' AND id <> 'me') NOT VALID""",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
