-- Bulk import: what a connection has staged goes into the directory and the log, one autocommit call per batch.
-- The staging tables are temporary, made by commands/bulk.py and commands/bulk_users.py on their own connection.

-- Append a UserFollowed for each staged pair that is not followed now, in the order of ord; a pair may be staged once.
-- Neither user may be himself, which the (u, u) pair sees to: its newest event never is UserUnfollowed.
-- Gives how many went in, the last position, and the ord of each row that did not because one of its users is erased.
CREATE OR REPLACE FUNCTION import_follows(OUT added bigint, OUT last_position bigint, OUT erased integer[])
LANGUAGE plpgsql AS $$
DECLARE
    base timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    base := next_recorded_at();
    WITH staged AS MATERIALIZED (
        SELECT s.*, f.number IS NOT NULL OR g.number IS NOT NULL AS is_erased
        FROM staged_follows s
        LEFT JOIN erasures f ON f.number = s.subject
        LEFT JOIN erasures g ON g.number = s.object
    ), inserted AS (
        INSERT INTO events (position, subject, object, version, type, recorded_at, data)
        SELECT nextval('events_position'), o.subject, o.object, o.version, 'UserFollowed',
               base + (o.ord - 1) * interval '1 microsecond', o.data
        FROM (
            SELECT s.ord, s.subject, s.object, coalesce(e.version, 0) + 1 AS version, s.data
            FROM staged s
            LEFT JOIN LATERAL (
                SELECT e.version, e.type FROM events e
                WHERE e.subject = s.subject AND e.object = s.object ORDER BY e.version DESC LIMIT 1) e ON true
            WHERE NOT s.is_erased AND (e.type IS NULL OR e.type = 'UserUnfollowed')
            ORDER BY s.ord
        ) o
        RETURNING position, subject
    ), forgotten AS (
        DELETE FROM follow_counts c USING inserted i WHERE c.number = i.subject
    )
    SELECT count(*), max(i.position), (SELECT array_agg(s.ord ORDER BY s.ord) FROM staged s WHERE s.is_erased)
    INTO added, last_position, erased
    FROM inserted i;
END $$;

-- Register the staged users that are new and change those that differ, in the order of ord; an id may be staged once.
-- login is the wished one or NULL; a new user without a wish gets own_login, or spare_login when that is taken.
-- An erased user stays erased. A login is taken when another user has it now or an earlier row has just got it: who
-- gives a name up and who takes it over in one batch need a second run. Gives the ord of the rows that did not go in;
-- strict leaves out all rows behind the first of them.
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
    UPDATE staged_users s SET login = own_login WHERE s.number IS NULL AND s.login IS NULL;
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
        SELECT s.id, s.login, coalesce(s.display_name, s.own_name), s.profile
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
    SELECT append_own_events(
        array_agg(s.number ORDER BY s.ord),
        array_agg(CASE s.verdict WHEN 'added' THEN 'UserRegistered' ELSE 'ProfileChanged' END::event_type ORDER BY s.ord),
        array_fill(NULL::jsonb, ARRAY[count(*)::integer]))
    INTO last_position
    FROM staged_users s WHERE s.verdict IN ('added', 'changed') HAVING count(*) > 0;
    INSERT INTO released_logins (login, number, position)
    SELECT s.old_login, s.number, last_position FROM staged_users s WHERE s.verdict = 'changed' AND s.login <> s.old_login;
END $$;
