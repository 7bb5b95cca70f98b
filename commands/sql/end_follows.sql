-- Ending the follows of an erased user, in batches that survive kills.

-- The newest event of each pair of the_number, on one side, for partners above walked_to, in their order.
CREATE OR REPLACE FUNCTION newest_of_pairs(the_number bigint, followers_side boolean, walked_to bigint, the_limit integer)
RETURNS TABLE (other bigint, subject bigint, object bigint, version integer, type event_type)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    IF followers_side THEN
        RETURN QUERY
        SELECT DISTINCT ON (e.subject) e.subject, e.subject, e.object, e.version, e.type FROM events e
        WHERE e.object = the_number AND e.subject > walked_to AND e.subject <> the_number
        ORDER BY e.subject, e.version DESC LIMIT the_limit;
    ELSE
        RETURN QUERY
        SELECT DISTINCT ON (e.object) e.object, e.subject, e.object, e.version, e.type FROM events e
        WHERE e.subject = the_number AND e.object > walked_to AND e.object <> the_number
        ORDER BY e.object, e.version DESC LIMIT the_limit;
    END IF;
END $$;

-- End up to the_limit follows as events; the row of the erasure remembers how far it came. One autocommit call: a kill
-- leaves whole batches, and the next call goes on behind the last. New follows of an erased user cannot come up behind
-- it, since append_events refuses them under the same lock. Gives how many follows ended, the last position, and
-- whether the erasure has now finished.
CREATE OR REPLACE FUNCTION end_follows(
    the_number bigint, the_limit integer, OUT ended bigint, OUT last_position bigint, OUT finished boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    base timestamptz;
    progress erasures%ROWTYPE;
    seen bigint;
    furthest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    SELECT * INTO progress FROM erasures e WHERE e.number = the_number;
    ended := 0;
    finished := progress.number IS NULL OR progress.finished_at IS NOT NULL;
    IF finished THEN
        RETURN;
    END IF;
    base := next_recorded_at();
    WITH pairs AS MATERIALIZED (
        SELECT * FROM newest_of_pairs(the_number, progress.followers_side, progress.walked_to, the_limit)
    ), inserted AS (
        INSERT INTO events (position, subject, object, version, type, recorded_at)
        SELECT nextval('events_position'), p.subject, p.object, p.version + 1, 'UserUnfollowed',
               base + (row_number() OVER (ORDER BY p.other) - 1) * interval '1 microsecond'
        FROM pairs p
        WHERE p.type <> 'UserUnfollowed'
        RETURNING position, subject
    ), forgotten AS (
        DELETE FROM follow_counts c USING inserted i WHERE c.number = i.subject
    )
    SELECT (SELECT count(*) FROM pairs), (SELECT max(p.other) FROM pairs p), count(*), max(i.position)
    INTO seen, furthest, ended, last_position
    FROM inserted i;
    finished := seen < the_limit AND progress.followers_side;
    UPDATE erasures e SET
        walked_to = CASE WHEN seen < the_limit THEN 0 ELSE furthest END,
        followers_side = e.followers_side OR seen < the_limit,
        finished_at = CASE WHEN finished THEN now() END
    WHERE e.number = the_number;
END $$;
