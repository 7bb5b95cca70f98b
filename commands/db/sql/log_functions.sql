-- The small functions that all readers and writers of the log share.

-- A time in microseconds since 1970; NULL for NULL. STABLE, since extract() of a timestamptz is: declared IMMUTABLE or
-- STRICT it would not be inlined, and each call would cost a function call.
CREATE OR REPLACE FUNCTION microseconds(moment timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (extract(epoch FROM moment) * 1000000)::bigint
$$;

-- The key of the advisory lock under which all appends to this database run one at a time.
CREATE OR REPLACE FUNCTION log_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 4071934::bigint $$;

-- The time of the next event: now, but after the last event's, so that times rise with the positions. When the last
-- event is more than ten minutes ahead, a clock was wrong, and what it stamped must not date everything after it. The
-- caller holds the lock.
CREATE OR REPLACE FUNCTION next_recorded_at() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT greatest(
        now.moment,
        (SELECT last.recorded_at + interval '1 microsecond'
         FROM (SELECT recorded_at FROM events ORDER BY position DESC LIMIT 1) last
         WHERE last.recorded_at <= now.moment + interval '10 minutes')
    )
    FROM (SELECT clock_timestamp() AS moment) now
$$;

-- A number that no other draw has, for a batch.
CREATE OR REPLACE FUNCTION random_word() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT hashtextextended(gen_random_uuid()::text, 0)
$$;

-- The word of a position: that of the first batch that ends at or after it; NULL beyond the log's head.
CREATE OR REPLACE FUNCTION word_at(the_position bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT word FROM batches WHERE last_position >= the_position ORDER BY last_position LIMIT 1
$$;

-- Return whether a parked event blocks commands on its pair: it was not skipped in any Redis, and workers feed the
-- Redis with the word the_store. While no Redis is fed it blocks them, too, since workers may come back to any.
CREATE OR REPLACE FUNCTION is_set_aside(the_position bigint, the_store text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM parked p WHERE p.position = the_position AND p.skipped_at IS NOT NULL) AND (
        the_store = '' OR EXISTS (SELECT FROM lease_owners o WHERE o.projects AND o.store IN ('', the_store))
        OR NOT EXISTS (SELECT FROM lease_owners o WHERE o.projects))
$$;

-- Skip one parked event; return false when it is not parked. Under the log's lock, since the count of the follower's
-- follows may be another one without the event.
CREATE OR REPLACE FUNCTION skip_parked(the_position bigint, who text, why text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    DELETE FROM follow_counts WHERE number = (SELECT subject FROM events WHERE position = the_position);
    UPDATE parked SET skipped_by = who, skipped_why = why, skipped_at = now()
    WHERE position = the_position AND skipped_at IS NULL;
    RETURN FOUND;
END $$;

-- Append one event about each of these users to their own pair (u, u), as one batch; return its last position and its
-- word. The caller holds the lock. quiet: no caller waits for these events. actor: the id of the caller, when that is
-- another user.
CREATE OR REPLACE FUNCTION append_own_events(
    numbers bigint[], types event_type[], datas jsonb[], quiet boolean DEFAULT false, actor text DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    base timestamptz := next_recorded_at();
    last bigint;
    word bigint := random_word();
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
    INSERT INTO batches (last_position, word, quiet, actors)
    VALUES (last, word, quiet, CASE WHEN actor IS NOT NULL THEN ARRAY[actor] END);
    RETURN ARRAY[last, word];
END $$;
