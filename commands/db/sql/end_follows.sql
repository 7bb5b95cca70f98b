-- Ending the follows of an erased user, in batches that survive kills.

-- The last event of each pair of the_number on one side, for other users above done_up_to, in their order.
CREATE OR REPLACE FUNCTION last_events_of_pairs(
    the_number bigint, followers_side boolean, done_up_to bigint, the_limit integer
) RETURNS TABLE (other bigint, subject bigint, object bigint, version integer, type event_type, at_position bigint)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    IF followers_side THEN
        RETURN QUERY
        SELECT DISTINCT ON (e.subject) e.subject, e.subject, e.object, e.version, e.type, e.position
        FROM events e
        WHERE e.object = the_number AND e.subject > done_up_to AND e.subject <> the_number
        ORDER BY e.subject, e.version DESC LIMIT the_limit;
    ELSE
        RETURN QUERY
        SELECT DISTINCT ON (e.object) e.object, e.subject, e.object, e.version, e.type, e.position
        FROM events e
        WHERE e.subject = the_number AND e.object > done_up_to AND e.object <> the_number
        ORDER BY e.object, e.version DESC LIMIT the_limit;
    END IF;
END $$;

-- End up to the_limit follows with events, and store in the row of the erasure how far it is. It is one autocommit
-- call: a killed job leaves whole batches, and the next call continues after the last. No follow of an erased user can
-- begin meanwhile, since append_events refuses it under the same lock. Return how many follows ended, the last position,
-- and whether the erasure is finished; nulls when another process is ending follows: commands need not wait for several.
CREATE OR REPLACE FUNCTION end_follows(
    the_number bigint, the_limit integer, OUT ended bigint, OUT last_position bigint, OUT finished boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    base timestamptz;
    progress erasures%ROWTYPE;
    pair_count bigint;
    last_other bigint;
    skipped bigint[] := ARRAY(SELECT position FROM parked WHERE skipped_at IS NOT NULL);
BEGIN
    IF NOT pg_try_advisory_xact_lock(4071937) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(log_lock());
    SELECT * INTO progress FROM erasures e WHERE e.number = the_number;
    ended := 0;
    finished := progress.number IS NULL OR progress.finished_at IS NOT NULL;
    IF finished THEN
        RETURN;
    END IF;
    base := next_recorded_at();
    WITH pairs AS MATERIALIZED (
        SELECT * FROM last_events_of_pairs(the_number, progress.followers_side, progress.done_up_to, the_limit)
    ), inserted AS (
        INSERT INTO events (position, subject, object, version, type, recorded_at)
        SELECT nextval('events_position'), p.subject, p.object, p.version + 1, 'UserUnfollowed',
               base + (row_number() OVER (ORDER BY p.other) - 1) * interval '1 microsecond'
        FROM pairs p
        WHERE p.type <> 'UserUnfollowed' OR p.at_position = ANY (skipped)
        RETURNING position, subject
    ), uncounted AS (
        DELETE FROM follow_counts c USING inserted i WHERE c.number = i.subject
    ), batch AS (
        INSERT INTO batches (last_position, word, quiet)
        SELECT max(position), random_word(), true FROM inserted HAVING count(*) > 0
    )
    SELECT (SELECT count(*) FROM pairs), (SELECT max(p.other) FROM pairs p), count(*), max(i.position)
    INTO pair_count, last_other, ended, last_position
    FROM inserted i;
    finished := pair_count < the_limit AND progress.followers_side;
    UPDATE erasures e SET
        done_up_to = CASE WHEN pair_count < the_limit THEN 0 ELSE last_other END,
        followers_side = e.followers_side OR pair_count < the_limit,
        finished_at = CASE WHEN finished THEN now() END
    WHERE e.number = the_number;
END $$;
