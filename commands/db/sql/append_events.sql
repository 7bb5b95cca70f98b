-- Append one event per row of the arrays to the log, in their order and as one batch, and return the rows that were
-- inserted, each with the word of the batch.
--
-- The lock is taken before the first nextval and held until commit, so positions become visible in their own order: a
-- reader of "position > x ORDER BY position" never skips one. recorded_at is set under the lock too: next_recorded_at
-- says when it rises with the position.
--
-- A row is not inserted when its version is taken (another writer was faster), when one of its users is erased, or when
-- its command_id already has an answer. The caller then reads and decides again. A pair may be in the arrays once.
--
-- following_max limits how many a user follows. A follow by a user who has reached it is returned without a position. A
-- batch that would exceed it loses the last follows of that user, which the caller decides again.
CREATE OR REPLACE FUNCTION append_events(
    subjects bigint[], objects bigint[], versions integer[], types event_type[], datas jsonb[],
    command_ids uuid[], request_hashes bytea[], following_max bigint DEFAULT NULL
) RETURNS TABLE (ord bigint, at_position bigint, at_time timestamptz, batch_word bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    base timestamptz;
    too_many bigint[] := '{}';
    later bigint[] := '{}';
    erased bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    base := next_recorded_at();
    erased := ARRAY(SELECT x.number FROM erasures x WHERE x.number = ANY(subjects || objects));
    IF following_max IS NULL THEN
        PERFORM delete_follow_counts(subjects);
    ELSE
        PERFORM count_follows(subjects);
        SELECT coalesce(array_agg(f.ord) FILTER (WHERE f.following >= following_max), '{}'),
               coalesce(array_agg(f.ord) FILTER (WHERE f.following < following_max), '{}')
        INTO too_many, later
        FROM (SELECT i.ord, c.following, row_number() OVER (PARTITION BY i.subject ORDER BY i.ord) AS place
              FROM unnest(subjects, types) WITH ORDINALITY AS i (subject, type, ord)
              JOIN follow_counts c ON c.number = i.subject
              WHERE i.type = 'UserFollowed') f
        WHERE f.following + f.place > following_max;
    END IF;
    RETURN QUERY
    WITH input AS MATERIALIZED (
        SELECT *
        FROM unnest(subjects, objects, versions, types, datas, command_ids, request_hashes)
             WITH ORDINALITY AS i (subject, object, version, type, data, command_id, request_hash, ord)
    ), inserted AS (
        INSERT INTO events (position, subject, object, version, type, recorded_at, data, command_id)
        SELECT nextval('events_position'), o.subject, o.object, o.version, o.type,
               base + (o.ord - 1) * interval '1 microsecond', o.data, o.command_id
        FROM (
            SELECT * FROM input i
            WHERE NOT (i.subject = ANY(erased) OR i.object = ANY(erased))
              AND (i.command_id IS NULL
                   OR NOT EXISTS (SELECT FROM command_answers a WHERE a.command_id = i.command_id))
              AND NOT i.ord = ANY(too_many || later)
            ORDER BY i.ord
        ) o
        ON CONFLICT (subject, object, version) DO NOTHING
        RETURNING position, subject, recorded_at, type
    ), numbered AS ( -- the time of an event says which row it was
        SELECT n.*, microseconds(n.recorded_at) - microseconds(base) + 1 AS ord FROM inserted n
    ), counted AS (
        UPDATE follow_counts c SET following = c.following + n.change
        FROM (SELECT subject,
                     sum(CASE type WHEN 'UserFollowed' THEN 1 WHEN 'UserUnfollowed' THEN -1 ELSE 0 END) AS change
              FROM inserted GROUP BY subject) n
        WHERE following_max IS NOT NULL AND c.number = n.subject
    ), answered AS (
        INSERT INTO command_answers (command_id, request_hash, position)
        SELECT command_ids[n.ord], request_hashes[n.ord], n.position FROM numbered n
        WHERE command_ids[n.ord] IS NOT NULL
    ), batch AS (
        INSERT INTO batches (last_position, word)
        SELECT max(position), random_word() FROM inserted HAVING count(*) > 0
        RETURNING word
    )
    SELECT n.ord, n.position, n.recorded_at, b.word FROM numbered n CROSS JOIN batch b
    UNION ALL
    SELECT t.ord, NULL, NULL, NULL FROM unnest(too_many) AS t (ord);
END $$;

-- Store the answer to a command that appended no event; return false when its key has an answer already. It runs under
-- the log's lock, so that append_events sees either this answer or none.
CREATE OR REPLACE FUNCTION store_answer(the_id uuid, the_hash bytea, the_answer jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(log_lock());
    INSERT INTO command_answers (command_id, request_hash, answer) VALUES (the_id, the_hash, the_answer)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;
