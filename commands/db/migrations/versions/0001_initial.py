"""The log, the users directory, and the tables that writers and workers share."""

from alembic import op

# Earlier development versions used "0001" and "0002" for other tables.
revision = "0001_initial"
down_revision = None

STATEMENTS = (
    """CREATE TYPE event_type AS ENUM (
        'UserRegistered', 'ProfileChanged', 'UserErased', 'BroadcastStarted', 'BroadcastChanged', 'BroadcastEnded',
        'UserFollowed', 'UserUnfollowed', 'NotificationsChanged')""",
    # CACHE 1: a session that cached positions would append below positions that others have committed already.
    "CREATE SEQUENCE events_position AS bigint CACHE 1",
    """CREATE TABLE events (
        position bigint PRIMARY KEY,
        subject bigint NOT NULL,
        object bigint NOT NULL,
        version integer NOT NULL CHECK (version > 0),
        type event_type NOT NULL,
        recorded_at timestamptz NOT NULL,
        data jsonb,
        command_id uuid,
        UNIQUE (subject, object, version))""",
    # For the followers of a user: ending the follows of an erased user, history, as-of.
    "CREATE INDEX events_object ON events (object, subject)",
    """CREATE TABLE users (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text NOT NULL UNIQUE CHECK (id ~ '^[0-9A-Za-z_-]{1,64}$'),
        login text UNIQUE CHECK (login = lower(login)),
        display_name text NOT NULL,
        profile jsonb NOT NULL DEFAULT '{}',
        broadcast jsonb,
        broadcast_id bigint,
        broadcast_started_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        erased_at timestamptz)""",
    # Logins that users no longer have. The projection deletes their keys from the views.
    """CREATE TABLE released_logins (
        login text NOT NULL,
        number bigint NOT NULL,
        position bigint NOT NULL,
        released_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE INDEX released_logins_number ON released_logins (number)",
    "CREATE SEQUENCE broadcast_ids",
    """CREATE TABLE erasures (
        number bigint PRIMARY KEY REFERENCES users,
        position bigint NOT NULL,
        followers_side boolean NOT NULL DEFAULT false,
        done_up_to bigint NOT NULL DEFAULT 0,
        requested_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz)""",
    "CREATE INDEX erasures_open ON erasures (number) WHERE finished_at IS NULL",
    """CREATE TABLE command_answers (
        command_id uuid PRIMARY KEY,
        request_hash bytea NOT NULL,
        position bigint,
        answer jsonb,
        answered_at timestamptz NOT NULL DEFAULT now())""",
    "CREATE INDEX command_answers_age ON command_answers (answered_at)",
    # The identity of this log: a checkpoint of another log must not pass for one of this log.
    "CREATE TABLE log_identity (log_id uuid NOT NULL DEFAULT gen_random_uuid())",
    "INSERT INTO log_identity DEFAULT VALUES",
    # Which worker projects which partitions. All fences come from one sequence, so that a later owner has a higher one.
    "CREATE SEQUENCE fences",
    """CREATE TABLE leases (
        name text PRIMARY KEY,
        owner uuid NOT NULL,
        fence bigint NOT NULL,
        expires_at timestamptz NOT NULL)""",
    # The workers that are alive, which share the partitions.
    "CREATE TABLE workers (owner uuid PRIMARY KEY, expires_at timestamptz NOT NULL)",
    # Generations of views: building, then live, then old (kept for undo), then deleted.
    """CREATE TABLE generations (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        partitions integer NOT NULL CHECK (partitions > 0),
        state text NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'live', 'old', 'deleted')),
        reason text NOT NULL,
        started_at timestamptz NOT NULL DEFAULT now(),
        changed_at timestamptz NOT NULL DEFAULT now())""",
    # A paused projection: the name and reason given, and the time. Without a row it runs.
    """CREATE TABLE pauses (
        only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
        who text NOT NULL,
        why text NOT NULL,
        since timestamptz NOT NULL DEFAULT now())""",
    # Events that could not be projected, and the later events of their pairs, which wait behind them.
    """CREATE TABLE parked (
        position bigint PRIMARY KEY,
        subject bigint NOT NULL,
        object bigint NOT NULL,
        reason text NOT NULL,
        parked_at timestamptz NOT NULL DEFAULT now(),
        skipped_by text,
        skipped_why text,
        skipped_at timestamptz)""",
    # How many each user follows, for the limit on it. Unlogged: a crash empties it and a standby lacks it, and a
    # missing user is counted again from the log at the next follow.
    "CREATE UNLOGGED TABLE follow_counts (number bigint PRIMARY KEY, following bigint NOT NULL)",
    """CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the event log is append-only' USING ERRCODE = 'restrict_violation'; END $$""",
    "CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
