-- The small functions that every writer of the log shares.

-- The key of the advisory lock that makes appends one at a time in this database.
CREATE OR REPLACE FUNCTION log_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 4071934::bigint $$;

-- The time for the next event: now, but always after the last event's. Call it with the lock held.
CREATE OR REPLACE FUNCTION next_recorded_at() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT greatest(
        clock_timestamp(),
        (SELECT recorded_at + interval '1 microsecond' FROM events ORDER BY position DESC LIMIT 1)
    )
$$;

-- Append one fact about each of these users to their own pair (u, u); give back the last position. Call it with the
-- lock held.
CREATE OR REPLACE FUNCTION append_own_events(numbers bigint[], types event_type[], datas jsonb[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    base timestamptz := next_recorded_at();
    last bigint;
BEGIN
    WITH inserted AS (
        INSERT INTO events (position, subject, object, version, type, recorded_at, data)
        SELECT nextval('events_position'), o.number, o.number, o.version, o.type,
               base + (o.ord - 1) * interval '1 microsecond', o.data
        FROM (
            SELECT i.*, 1 + coalesce((SELECT max(e.version) FROM events e
                                      WHERE e.subject = i.number AND e.object = i.number), 0) AS version
            FROM unnest(numbers, types, datas) WITH ORDINALITY AS i (number, type, data, ord)
            ORDER BY i.ord
        ) o
        RETURNING position
    )
    SELECT max(position) INTO last FROM inserted;
    RETURN last;
END $$;
