"""Words of histories, one row for each batch of events; leases that last until their owner is seen to have stopped."""

from alembic import op

revision = "0002_histories"
down_revision = "0001_initial"

_STATEMENTS = (
    # The word of a position is that of the first row at or after it: see docs/decisions/0024-a-history-has-words.md.
    # quiet: no caller waits for these events. actors: ids of callers who changed other users' rows in this batch.
    """CREATE TABLE batches (
        last_position bigint PRIMARY KEY,
        word bigint NOT NULL,
        quiet boolean NOT NULL DEFAULT false,
        actors text[])""",
    """INSERT INTO batches (last_position, word, quiet)
    SELECT coalesce(max(position), 0), hashtextextended(gen_random_uuid()::text, 0), true FROM events""",
    "CREATE TRIGGER batches_no_change BEFORE UPDATE OR DELETE ON batches FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    """CREATE TRIGGER batches_no_truncate BEFORE TRUNCATE ON batches
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    # For as-of, which must find events whose time is before that of the event before them.
    "CREATE INDEX events_recorded_at ON events USING brin (recorded_at) WITH (autosummarize = on)",
    # kept: holds what the log has lost, and is deleted by hand only.
    "ALTER TABLE generations DROP CONSTRAINT generations_state_check",
    """ALTER TABLE generations ADD CONSTRAINT generations_state_check
    CHECK (state IN ('building', 'live', 'old', 'kept', 'deleted'))""",
    # Their signatures have changed.
    "DROP FUNCTION IF EXISTS append_events",
    "DROP FUNCTION IF EXISTS append_own_events",
    "DROP FUNCTION IF EXISTS register_users",
    "DROP FUNCTION IF EXISTS reregister_user",
    "DROP FUNCTION IF EXISTS change_profile",
    "DROP FUNCTION IF EXISTS put_broadcast",
    "DROP FUNCTION IF EXISTS end_broadcast",
    "DROP FUNCTION IF EXISTS erase_user",
    "DROP FUNCTION IF EXISTS acquire_lease_share",
    "DROP FUNCTION IF EXISTS acquire_lease",
    "DROP TABLE leases",
    "DROP TABLE workers",
    # Each renewal draws a number of its own: a row that was deleted and made again is never taken for the old one.
    "CREATE SEQUENCE lease_renewals",
    # The processes that hold leases, or want some; those that project share the lease groups. Without its row, a
    # process holds nothing.
    """CREATE TABLE lease_owners (
        owner uuid PRIMARY KEY,
        projects boolean NOT NULL,
        renewal bigint NOT NULL DEFAULT nextval('lease_renewals'))""",
    """CREATE TABLE leases (
        name text PRIMARY KEY,
        owner uuid NOT NULL REFERENCES lease_owners ON DELETE CASCADE,
        fence bigint NOT NULL)""",
    # In which order the states of generations changed. A time would name another one after a step of the clock.
    "CREATE SEQUENCE generation_changes",
    "ALTER TABLE generations ADD COLUMN changed bigint NOT NULL DEFAULT nextval('generation_changes')",
    """UPDATE generations SET changed = earlier.place
    FROM (SELECT number, row_number() OVER (ORDER BY changed_at) AS place FROM generations) earlier
    WHERE earlier.number = generations.number""",
    "ALTER TABLE generations DROP COLUMN changed_at",
    # What the code relies on and only it has kept until now; a restore of data into these tables must fail instead.
    "ALTER TABLE log_identity ADD COLUMN only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one)",
    "CREATE UNIQUE INDEX follows_version_only_one ON follows_version ((true))",
    """UPDATE generations SET state = 'old'
    WHERE state = 'live' AND number < (SELECT max(number) FROM generations WHERE state = 'live')""",
    # Deferrable, so that it holds after a statement, which moves the state from one row to another.
    """ALTER TABLE generations ADD CONSTRAINT generations_one_live
    EXCLUDE USING btree (state WITH =) WHERE (state = 'live') DEFERRABLE""",
    # A user's own facts are on (u, u), follows are of others. A later version's types are not known here.
    """ALTER TABLE events ADD CONSTRAINT events_pair CHECK (CASE
        WHEN type IN ('UserFollowed', 'UserUnfollowed', 'NotificationsChanged') THEN subject <> object
        WHEN type IN ('UserRegistered', 'ProfileChanged', 'UserErased', 'BroadcastStarted', 'BroadcastChanged',
                      'BroadcastEnded') THEN subject = object
        ELSE true END)""",
    """ALTER TABLE users
        ADD CONSTRAINT users_erased CHECK (CASE WHEN erased_at IS NULL THEN login IS NOT NULL
            ELSE login IS NULL AND display_name = '' AND profile = '{}' AND broadcast IS NULL END),
        ADD CONSTRAINT users_broadcast CHECK (
            broadcast IS NULL OR (broadcast_id IS NOT NULL AND broadcast_started_at IS NOT NULL))""",
    "ALTER TABLE command_answers ADD CONSTRAINT command_answers_one CHECK (num_nonnulls(position, answer) = 1)",
    """ALTER TABLE parked ADD CONSTRAINT parked_skipped
    CHECK (num_nonnulls(skipped_by, skipped_why, skipped_at) IN (0, 3))""",
    "ALTER TABLE follow_counts ADD CONSTRAINT follow_counts_positive CHECK (following >= 0)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
