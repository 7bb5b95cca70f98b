-- Bulk import: the rows that a connection has staged go into the directory and the log, one autocommit call per batch.
-- The staging tables are temporary; commands/bulk_follows.py and commands/bulk_users.py create them.

-- Append a UserFollowed for each staged pair that is not followed now, in the order of ord; a pair may be staged once.
-- Users cannot follow themselves: the last event of a pair (u, u) is never UserUnfollowed. Return how many were
-- added, the last position, the ord of each row that was not added because one of its users is erased, and the ord of
-- each whose pair has a parked event, or ends in one of a kind that is not known here. Skipped events do not count.
CREATE OR REPLACE FUNCTION import_follows(
    OUT added bigint, OUT last_position bigint, OUT erased integer[], OUT set_aside integer[]
)
LANGUAGE plpgsql AS $$
DECLARE
    base timestamptz;
    skipped bigint[];
    some_parked boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    base := next_recorded_at();
    skipped := ARRAY(SELECT position FROM parked WHERE skipped_at IS NOT NULL);
    some_parked := EXISTS (SELECT FROM parked WHERE skipped_at IS NULL);
    WITH staged AS MATERIALIZED (
        SELECT s.*, f.number IS NOT NULL OR g.number IS NOT NULL AS is_erased
        FROM staged_follows s
        LEFT JOIN erasures f ON f.number = s.subject
        LEFT JOIN erasures g ON g.number = s.object
    ), last AS MATERIALIZED (
        SELECT s.ord, s.subject, s.object, s.data, coalesce(e.version, 0) + 1 AS version,
            CASE WHEN e.position = ANY (skipped) THEN (
                SELECT b.type FROM events b
                WHERE b.subject = s.subject AND b.object = s.object AND b.position <> ALL (skipped)
                ORDER BY b.version DESC LIMIT 1) ELSE e.type END AS type,
            some_parked AND EXISTS (
                SELECT FROM parked k
                WHERE k.subject = s.subject AND k.object = s.object AND is_set_aside(k.position, k.store)) AS is_parked
        FROM staged s
        LEFT JOIN LATERAL (
            SELECT e.position, e.version, e.type FROM events e
            WHERE e.subject = s.subject AND e.object = s.object ORDER BY e.version DESC LIMIT 1) e ON true
        WHERE NOT s.is_erased
    ), inserted AS (
        INSERT INTO events (position, subject, object, version, type, recorded_at, data)
        SELECT nextval('events_position'), o.subject, o.object, o.version, 'UserFollowed',
               base + (o.ord - 1) * interval '1 microsecond', o.data
        FROM (
            SELECT * FROM last l
            WHERE NOT l.is_parked AND (l.type IS NULL OR l.type = 'UserUnfollowed') ORDER BY l.ord
        ) o
        RETURNING position, subject
    ), uncounted AS (
        DELETE FROM follow_counts c USING inserted i WHERE c.number = i.subject
    ), batch AS (
        INSERT INTO batches (last_position, word, quiet)
        SELECT max(position), random_word(), true FROM inserted HAVING count(*) > 0
    )
    SELECT count(*), max(i.position), (SELECT array_agg(s.ord ORDER BY s.ord) FROM staged s WHERE s.is_erased),
        (SELECT array_agg(l.ord ORDER BY l.ord) FROM last l
         WHERE l.is_parked OR l.type NOT IN ('UserFollowed', 'UserUnfollowed', 'NotificationsChanged'))
    INTO added, last_position, erased, set_aside
    FROM inserted i;
END $$;

-- Register the staged users that are new and change those that differ, in the order of ord; an id may be staged once.
-- login is the requested one or NULL. A new user without one gets default_login, or spare_login when that is taken.
-- An erased user stays erased. A login is taken when another user has it now or an earlier row has just got it, so a
-- login that changes hands within one batch needs a second run. Return the ord of the rows that were refused; strict
-- leaves out all rows after the first of them.
CREATE OR REPLACE FUNCTION import_users(
    strict boolean, OUT added bigint, OUT changed bigint, OUT last_position bigint, OUT erased integer[],
    OUT taken integer[]
)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    UPDATE staged_users s SET number = u.number, old_login = u.login,
                              verdict = CASE WHEN u.erased_at IS NOT NULL THEN 'erased' END
    FROM users u WHERE u.id = s.id;
    UPDATE staged_users s SET login = default_login WHERE s.number IS NULL AND s.login IS NULL;
    UPDATE staged_users s SET verdict = 'taken'
    FROM users u WHERE s.verdict IS NULL AND u.login = s.login AND u.number IS DISTINCT FROM s.number;
    UPDATE staged_users s SET verdict = 'taken'
    FROM (SELECT w.ord, row_number() OVER (PARTITION BY w.login ORDER BY w.ord) AS place
          FROM staged_users w WHERE w.verdict IS NULL AND w.login IS NOT NULL) p
    WHERE p.ord = s.ord AND p.place > 1;
    UPDATE staged_users s SET login = s.spare_login, verdict = NULL
    WHERE s.verdict = 'taken' AND s.number IS NULL AND s.spare_login IS NOT NULL;
    IF strict THEN
        DELETE FROM staged_users s
        WHERE s.ord > (SELECT min(b.ord) FROM staged_users b WHERE b.verdict IN ('erased', 'taken'));
    END IF;

    WITH inserted AS (
        INSERT INTO users (id, login, display_name, profile)
        SELECT s.id, s.login, coalesce(s.display_name, s.default_name), s.profile
        FROM staged_users s WHERE s.number IS NULL AND s.verdict IS NULL ORDER BY s.ord
        RETURNING number, id
    )
    UPDATE staged_users s SET number = i.number, verdict = 'added' FROM inserted i WHERE i.id = s.id;
    WITH differing AS (
        UPDATE users u SET login = coalesce(s.login, u.login), display_name = coalesce(s.display_name, u.display_name),
                           profile = u.profile || s.profile, updated_at = now()
        FROM staged_users s
        WHERE u.number = s.number AND s.verdict IS NULL
          AND (coalesce(s.login, u.login), coalesce(s.display_name, u.display_name), u.profile || s.profile)
              IS DISTINCT FROM (u.login, u.display_name, u.profile)
        RETURNING u.number
    )
    UPDATE staged_users s SET verdict = 'changed' FROM differing d WHERE d.number = s.number;

    SELECT count(*) FILTER (WHERE s.verdict = 'added'), count(*) FILTER (WHERE s.verdict = 'changed'),
           array_agg(s.ord ORDER BY s.ord) FILTER (WHERE s.verdict = 'erased'),
           array_agg(s.ord ORDER BY s.ord) FILTER (WHERE s.verdict = 'taken')
    INTO added, changed, erased, taken
    FROM staged_users s;
    SELECT (append_own_events(
        array_agg(s.number ORDER BY s.ord),
        array_agg(
            CASE s.verdict WHEN 'added' THEN 'UserRegistered' ELSE 'ProfileChanged' END::event_type ORDER BY s.ord),
        array_fill(NULL::jsonb, ARRAY[count(*)::integer]), true))[1]
    INTO last_position
    FROM staged_users s WHERE s.verdict IN ('added', 'changed') HAVING count(*) > 0;
    INSERT INTO released_logins (login, number, position)
    SELECT s.old_login, s.number, last_position FROM staged_users s
    WHERE s.verdict = 'changed' AND s.login <> s.old_login;
END $$;
