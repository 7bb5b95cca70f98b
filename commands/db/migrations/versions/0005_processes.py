"""Which process each owner of leases is and when it last renewed, for `follows status`; a table to try a write in.

Everything here is added: processes of the version before go on beside those of this one.
"""

from alembic import op

revision = "0005_processes"
down_revision = "0004_compatible"
# The oldest revision whose code may run on this schema.
compatible_with = "0002_histories"

_STATEMENTS = (
    # What an operator is shown. Nothing is decided by it: see docs/clocks.md.
    "ALTER TABLE lease_owners ADD COLUMN process jsonb, ADD COLUMN seen_at timestamptz NOT NULL DEFAULT now()",
    """CREATE FUNCTION note_renewal() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.seen_at := clock_timestamp(); RETURN NEW; END $$""",
    """CREATE TRIGGER lease_owners_renewed BEFORE INSERT OR UPDATE ON lease_owners
    FOR EACH ROW EXECUTE FUNCTION note_renewal()""",
    # `follows status` tries a write here and takes it back.
    "CREATE TABLE write_probes (filler text NOT NULL)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
