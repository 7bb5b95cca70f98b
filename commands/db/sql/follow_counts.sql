-- How many each user follows, for the limit on follows. Only users who were counted have a row. Every writer of follows
-- holds the log's lock and either updates the counts or deletes them. The caller of these functions holds it, too.

-- Count the users who have no row yet: one scan of all that a user ever followed.
CREATE OR REPLACE FUNCTION count_follows(numbers bigint[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO follow_counts (number, following)
    SELECT n.number, (
        SELECT count(*) FROM (
            SELECT DISTINCT ON (e.object) e.type FROM events e
            WHERE e.subject = n.number AND e.object <> n.number
              AND e.position <> ALL (ARRAY(SELECT position FROM parked WHERE skipped_at IS NOT NULL))
            ORDER BY e.object, e.version DESC
        ) pairs WHERE pairs.type <> 'UserUnfollowed')
    FROM (SELECT DISTINCT unnest(numbers) AS number) n
    WHERE NOT EXISTS (SELECT FROM follow_counts c WHERE c.number = n.number)
$$;

-- Delete the counts of these users, for a writer that does not update them.
CREATE OR REPLACE FUNCTION delete_follow_counts(numbers bigint[]) RETURNS void LANGUAGE sql AS $$
    DELETE FROM follow_counts c WHERE c.number = ANY(numbers)
$$;
