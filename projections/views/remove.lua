-- Delete keys of a partition that has no position.
--
-- If an older dump has brought the position back since, nothing is deleted: readers may be at the partition again.
--
-- KEYS  1 the partition's checkpoint, the others are to be deleted
-- Answers how many were deleted; -1 when the partition has a position.
local at = redis.pcall('HMGET', KEYS[1], 'position', 'retired_position')
if not at.err and (at[1] or at[2]) then
    return -1
end
return redis.call('UNLINK', unpack(KEYS, 2))
