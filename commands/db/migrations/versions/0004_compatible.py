"""The database says which versions of the code may run on it: docs/decisions/0031-versions-side-by-side.md."""

from alembic import op

revision = "0004_compatible"
down_revision = "0003_parked"
# The oldest revision whose code may run on this schema.
compatible_with = "0002_histories"


def upgrade() -> None:
    op.execute("ALTER TABLE follows_version ADD COLUMN compatible_with text")
