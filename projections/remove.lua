-- Remove keys of a lane that nobody reads any more.
--
-- An old dump may have been restored since that was found, and the lane be there again, with a position: then none is
-- removed, or readers would miss what they are to see.
--
-- KEYS  1 the lane's checkpoint, the others are to be removed
-- Answers how many were removed; -1 when the lane is there.
local at = redis.pcall('HMGET', KEYS[1], 'position', 'kept')
if not at.err and (at[1] or at[2]) then
    return -1
end
return redis.call('UNLINK', unpack(KEYS, 2))
