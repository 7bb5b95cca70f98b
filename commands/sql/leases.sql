-- Leases, by this server's clock only.

-- Renew the owner's leases and take free ones, up to a fair share of the names among the workers that are alive; a worker
-- that holds more than its share gives the rest back. A lease taken anew, or renewed too late, or when it must be fresh,
-- has a higher fence than any lease before it.
CREATE OR REPLACE FUNCTION share_leases(the_names text[], the_owner uuid, seconds double precision, fresh boolean)
RETURNS TABLE (held_name text, held_fence bigint)
LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz;
    until timestamptz;
    share integer;
    held text[];
BEGIN
    PERFORM pg_advisory_xact_lock(4071936);
    moment := clock_timestamp();
    until := moment + make_interval(secs => seconds);
    INSERT INTO workers (owner, expires_at) VALUES (the_owner, until)
    ON CONFLICT (owner) DO UPDATE SET expires_at = until;
    DELETE FROM workers WHERE expires_at <= moment;
    SELECT ceil(cardinality(the_names)::numeric / count(*)) INTO share FROM workers;
    held := ARRAY(SELECT l.name FROM leases l
                  WHERE l.owner = the_owner AND l.expires_at > moment AND l.name = ANY (the_names) ORDER BY l.name);
    UPDATE leases l SET expires_at = moment WHERE l.name = ANY (held[share + 1:]);
    held := held[:share];
    RETURN QUERY
    INSERT INTO leases AS l (name, owner, fence, expires_at)
    SELECT n, the_owner, nextval('fences'), until
    FROM (
        SELECT unnest(held) AS n
        UNION ALL
        (SELECT free FROM unnest(the_names) free
         WHERE NOT EXISTS (SELECT FROM leases x WHERE x.name = free AND x.expires_at > moment)
           AND NOT free = ANY (held)
         ORDER BY free LIMIT greatest(share - cardinality(held), 0))
    ) wanted
    ON CONFLICT (name) DO UPDATE SET
        owner = excluded.owner,
        fence = CASE WHEN l.owner = excluded.owner AND l.expires_at > moment AND NOT fresh
                     THEN l.fence ELSE excluded.fence END,
        expires_at = excluded.expires_at
    RETURNING l.name, l.fence;
END $$;

-- Take or renew one lease that only one may hold; NULL when another has it.
CREATE OR REPLACE FUNCTION take_lease(the_name text, the_owner uuid, seconds double precision) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO leases AS l (name, owner, fence, expires_at)
    VALUES (the_name, the_owner, nextval('fences'), clock_timestamp() + make_interval(secs => seconds))
    ON CONFLICT (name) DO UPDATE SET
        owner = excluded.owner,
        fence = CASE WHEN l.owner = excluded.owner AND l.expires_at > clock_timestamp() THEN l.fence
                     ELSE excluded.fence END,
        expires_at = excluded.expires_at
    WHERE l.owner = excluded.owner OR l.expires_at <= clock_timestamp()
    RETURNING l.fence
$$;
