-- Changes of the users directory, each with its event in one autocommit call. Each function returns the event's position
-- and word, as an array. the_actor is the id of the caller, when that is another user.

-- Register users with their events and return them. Rows whose id or login is taken are not inserted.
CREATE OR REPLACE FUNCTION register_users(
    ids text[], logins text[], display_names text[], profiles jsonb[], the_actor text DEFAULT NULL
) RETURNS TABLE (new_number bigint, new_id text, appended bigint[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    numbers bigint[];
    last bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    WITH inserted AS (
        INSERT INTO users (id, login, display_name, profile)
        SELECT i.id, i.login, i.display_name, i.profile
        FROM unnest(ids, logins, display_names, profiles) WITH ORDINALITY AS i (id, login, display_name, profile, ord)
        ORDER BY i.ord
        ON CONFLICT DO NOTHING
        RETURNING number
    )
    SELECT array_agg(number ORDER BY number) INTO numbers FROM inserted;
    IF numbers IS NULL THEN
        RETURN;
    END IF;
    last := append_own_events(
        numbers, array_fill('UserRegistered'::event_type, ARRAY[cardinality(numbers)]),
        array_fill(NULL::jsonb, ARRAY[cardinality(numbers)]), false, the_actor);
    RETURN QUERY SELECT u.number, u.id, last FROM users u WHERE u.number = ANY (numbers);
END $$;

-- Register an erased id again, as an empty account under its old number; NULL unless its erasure has finished.
CREATE OR REPLACE FUNCTION reregister_user(
    the_number bigint, the_login text, the_display_name text, the_profile jsonb, the_actor text DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    DELETE FROM erasures WHERE number = the_number AND finished_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE users SET login = the_login, display_name = the_display_name, profile = the_profile,
                     created_at = now(), updated_at = now(), erased_at = NULL
    WHERE number = the_number;
    RETURN append_own_events(
        ARRAY[the_number], ARRAY['UserRegistered'::event_type], ARRAY[NULL::jsonb], false, the_actor);
END $$;

-- Change login, name and profile; keys of the_changes replace those of the stored profile. NULL when erased meanwhile.
CREATE OR REPLACE FUNCTION change_profile(
    the_number bigint, the_login text, the_display_name text, the_changes jsonb, the_actor text DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    old_login text;
    last bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    SELECT login INTO old_login FROM users WHERE number = the_number;
    UPDATE users SET login = coalesce(the_login, login), display_name = coalesce(the_display_name, display_name),
                     profile = profile || the_changes, updated_at = now()
    WHERE number = the_number AND erased_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    last := append_own_events(
        ARRAY[the_number], ARRAY['ProfileChanged'::event_type], ARRAY[NULL::jsonb], false, the_actor);
    INSERT INTO released_logins (login, number, position)
    SELECT old_login, the_number, last[1] WHERE old_login <> coalesce(the_login, old_login);
    RETURN last;
END $$;

-- Start a broadcast or change the running one. NULL when erased meanwhile.
CREATE OR REPLACE FUNCTION put_broadcast(
    the_number bigint, the_broadcast jsonb, the_viewers integer, the_actor text DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    running jsonb;
    started timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    SELECT broadcast, broadcast_started_at INTO running, started
    FROM users WHERE number = the_number AND erased_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE users SET broadcast = the_broadcast,
                     broadcast_id = CASE WHEN running IS NULL THEN nextval('broadcast_ids') ELSE broadcast_id END,
                     broadcast_started_at = CASE WHEN running IS NULL THEN now() ELSE started END
    WHERE number = the_number;
    RETURN append_own_events(
        ARRAY[the_number],
        ARRAY[CASE WHEN running IS NULL THEN 'BroadcastStarted' ELSE 'BroadcastChanged' END::event_type],
        ARRAY[jsonb_build_object('viewers', the_viewers)], false, the_actor);
END $$;

-- End the running broadcast. NULL when there is none.
CREATE OR REPLACE FUNCTION end_broadcast(the_number bigint, the_actor text DEFAULT NULL) RETURNS bigint[]
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    UPDATE users SET broadcast = NULL
    WHERE number = the_number AND erased_at IS NULL AND broadcast IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN append_own_events(
        ARRAY[the_number], ARRAY['BroadcastEnded'::event_type], ARRAY[NULL::jsonb], false, the_actor);
END $$;

-- Erase a user: blank the row and keep id and number reserved. A job ends the follows. NULL when there is no such user.
CREATE OR REPLACE FUNCTION erase_user(the_number bigint, the_actor text DEFAULT NULL) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    old_login text;
    last bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    SELECT login INTO old_login FROM users WHERE number = the_number;
    UPDATE users SET login = NULL, display_name = '', profile = '{}', broadcast = NULL, broadcast_started_at = NULL,
                     erased_at = now(), updated_at = now()
    WHERE number = the_number AND erased_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    last := append_own_events(
        ARRAY[the_number], ARRAY['UserErased'::event_type], ARRAY[NULL::jsonb], false, the_actor);
    INSERT INTO released_logins (login, number, position) VALUES (old_login, the_number, last[1]);
    INSERT INTO erasures (number, position) VALUES (the_number, last[1]);
    RETURN last;
END $$;
