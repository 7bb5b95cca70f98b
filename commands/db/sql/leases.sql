-- Leases. Nothing here reads a clock: a lease lasts until its owner's row is deleted, by the owner or by a process that
-- has seen the owner's number of renewal stay the same for long enough (see commands/coordination/leases.py). A lease is
-- about one Redis, by its word: each has its own workers. Workers of the version before give no word; theirs are leases
-- of the only Redis that there was, so no other owner may hold the same name.

-- Renew the owner and take free leases, up to a fair share of the names among the workers. A worker that holds more than
-- its share gives the rest back. A lease that is taken, or any with new_fences, gets a higher fence than any before it.
CREATE OR REPLACE FUNCTION acquire_lease_share(
    the_store text, the_names text[], the_owner uuid, new_fences boolean, the_runs text
) RETURNS TABLE (held_name text, held_fence bigint)
LANGUAGE plpgsql AS $$
DECLARE
    share integer;
    held text[];
BEGIN
    PERFORM pg_advisory_xact_lock(lease_lock());
    PERFORM renew_lease_owner(the_store, the_owner, true, the_runs);
    SELECT ceil(cardinality(the_names)::numeric / count(*)) INTO share
    FROM lease_owners WHERE projects AND store IN ('', the_store);
    held := ARRAY(SELECT l.name FROM leases l
                  WHERE l.store = the_store AND l.owner = the_owner AND l.name = ANY (the_names) ORDER BY l.name);
    DELETE FROM leases l WHERE l.owner = the_owner AND l.name = ANY (held[share + 1:]);
    IF new_fences THEN
        UPDATE leases l SET fence = nextval('fences') WHERE l.owner = the_owner AND l.name = ANY (the_names);
    END IF;
    INSERT INTO leases (store, name, owner, fence)
    SELECT the_store, free, the_owner, nextval('fences')
    FROM unnest(the_names) free
    WHERE NOT EXISTS (SELECT FROM leases x WHERE x.store IN ('', the_store) AND x.name = free)
      AND NOT free = ANY (held)
    ORDER BY free LIMIT greatest(share - cardinality(held), 0);
    RETURN QUERY SELECT l.name, l.fence FROM leases l WHERE l.owner = the_owner AND l.name = ANY (the_names);
END $$;

-- Take or renew one lease that has one owner at a time; NULL when another owner holds it.
CREATE OR REPLACE FUNCTION acquire_lease(the_store text, the_name text, the_owner uuid) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    its_fence bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(lease_lock());
    IF EXISTS (
        SELECT FROM leases l WHERE l.store IN ('', the_store) AND l.name = the_name AND l.owner <> the_owner
    ) THEN
        RETURN NULL;
    END IF;
    PERFORM renew_lease_owner(the_store, the_owner, false, '');
    INSERT INTO leases (store, name, owner, fence) VALUES (the_store, the_name, the_owner, nextval('fences'))
    ON CONFLICT DO NOTHING;
    SELECT l.fence INTO its_fence FROM leases l
    WHERE l.store = the_store AND l.name = the_name AND l.owner = the_owner;
    RETURN its_fence;
END $$;

-- Write a number that no renewal has had before into the owner's row, and insert the row if it is missing. An owner
-- whose Redis has another word now, since it was emptied, holds nothing.
CREATE OR REPLACE FUNCTION renew_lease_owner(the_store text, the_owner uuid, it_projects boolean, the_runs text)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM leases WHERE owner = the_owner AND store <> the_store;
    INSERT INTO lease_owners (owner, store, projects, runs) VALUES (the_owner, the_store, it_projects, the_runs)
    ON CONFLICT (owner) DO UPDATE SET renewal = excluded.renewal, store = excluded.store, runs = excluded.runs;
$$;

-- As the version before calls them. It takes no lease that any owner holds under the name.
CREATE OR REPLACE FUNCTION acquire_lease_share(the_names text[], the_owner uuid, new_fences boolean)
RETURNS TABLE (held_name text, held_fence bigint)
LANGUAGE plpgsql AS $$
DECLARE
    free_names text[];
BEGIN
    PERFORM pg_advisory_xact_lock(lease_lock());
    free_names := ARRAY(
        SELECT n FROM unnest(the_names) n WHERE NOT EXISTS (SELECT FROM leases x WHERE x.name = n AND x.store <> ''));
    RETURN QUERY SELECT * FROM acquire_lease_share('', free_names, the_owner, new_fences, '');
END $$;

CREATE OR REPLACE FUNCTION acquire_lease(the_name text, the_owner uuid) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(lease_lock());
    IF EXISTS (SELECT FROM leases l WHERE l.name = the_name AND l.store <> '') THEN
        RETURN NULL;
    END IF;
    RETURN acquire_lease('', the_name, the_owner);
END $$;

-- One process at a time takes leases, so that shares are counted and taken in one step.
CREATE OR REPLACE FUNCTION lease_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 4071936::bigint';
