-- How many each user follows, where anybody asked: for a limit, which must hold whatever is written at the same time.
-- Every writer of follows holds the log's lock and either keeps the counts or forgets them. Call both with it held.

-- Count those of the users who are not counted yet; one look through all that a user ever followed.
CREATE OR REPLACE FUNCTION count_follows(numbers bigint[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO follow_counts (number, following)
    SELECT n.number, (
        SELECT count(*) FROM (
            SELECT DISTINCT ON (e.object) e.type FROM events e
            WHERE e.subject = n.number AND e.object <> n.number ORDER BY e.object, e.version DESC
        ) pairs WHERE pairs.type <> 'UserUnfollowed')
    FROM (SELECT DISTINCT unnest(numbers) AS number) n
    WHERE NOT EXISTS (SELECT FROM follow_counts c WHERE c.number = n.number)
$$;

-- Forget the counts of these users: somebody writes who does not keep them.
CREATE OR REPLACE FUNCTION forget_follow_counts(numbers bigint[]) RETURNS void LANGUAGE sql AS $$
    DELETE FROM follow_counts c WHERE c.number = ANY(numbers)
$$;
