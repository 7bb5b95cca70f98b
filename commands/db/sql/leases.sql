-- Leases. Nothing here reads a clock: a lease lasts until its owner's row is deleted, by the owner or by a process that
-- has seen the owner's number of renewal stay the same for long enough (see commands/coordination/leases.py).

-- Renew the owner and take free leases, up to a fair share of the names among the workers. A worker that holds more than
-- its share gives the rest back. A lease that is taken, or any with new_fences, gets a higher fence than any before it.
CREATE OR REPLACE FUNCTION acquire_lease_share(the_names text[], the_owner uuid, new_fences boolean)
RETURNS TABLE (held_name text, held_fence bigint)
LANGUAGE plpgsql AS $$
DECLARE
    share integer;
    held text[];
BEGIN
    PERFORM pg_advisory_xact_lock(lease_lock());
    PERFORM renew_lease_owner(the_owner, true);
    SELECT ceil(cardinality(the_names)::numeric / count(*)) INTO share FROM lease_owners WHERE projects;
    held := ARRAY(SELECT l.name FROM leases l WHERE l.owner = the_owner AND l.name = ANY (the_names) ORDER BY l.name);
    DELETE FROM leases l WHERE l.owner = the_owner AND l.name = ANY (held[share + 1:]);
    IF new_fences THEN
        UPDATE leases l SET fence = nextval('fences') WHERE l.owner = the_owner AND l.name = ANY (the_names);
    END IF;
    INSERT INTO leases (name, owner, fence)
    SELECT free, the_owner, nextval('fences')
    FROM unnest(the_names) free
    WHERE NOT EXISTS (SELECT FROM leases x WHERE x.name = free) AND NOT free = ANY (held)
    ORDER BY free LIMIT greatest(share - cardinality(held), 0);
    RETURN QUERY SELECT l.name, l.fence FROM leases l WHERE l.owner = the_owner AND l.name = ANY (the_names);
END $$;

-- Take or renew one lease that has one owner at a time; NULL when another owner holds it.
CREATE OR REPLACE FUNCTION acquire_lease(the_name text, the_owner uuid) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    its_fence bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(lease_lock());
    IF EXISTS (SELECT FROM leases l WHERE l.name = the_name AND l.owner <> the_owner) THEN
        RETURN NULL;
    END IF;
    PERFORM renew_lease_owner(the_owner, false);
    INSERT INTO leases (name, owner, fence) VALUES (the_name, the_owner, nextval('fences')) ON CONFLICT DO NOTHING;
    SELECT l.fence INTO its_fence FROM leases l WHERE l.name = the_name AND l.owner = the_owner;
    RETURN its_fence;
END $$;

-- Give the owner a number that no renewal has had before, and a row if it has none.
CREATE OR REPLACE FUNCTION renew_lease_owner(the_owner uuid, it_projects boolean) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO lease_owners (owner, projects) VALUES (the_owner, it_projects)
    ON CONFLICT (owner) DO UPDATE SET renewal = excluded.renewal
$$;

-- One process at a time takes leases, so that shares are counted and taken in one step.
CREATE OR REPLACE FUNCTION lease_lock() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 4071936::bigint';
