-- Take a lane out of readers' sight, keeping what it holds and where it stood; or bring it back.
--
-- A lane is there for readers and for the projection while it has a position.
--
-- KEYS  1 the lane's checkpoint
-- ARGV  1 the caller's fence, 2 the field where the position stands, 3 the field where it shall stand
-- Answers the position, or false when there is none; 'FENCED' when the lane has a newer owner.
local at = redis.call('HMGET', KEYS[1], ARGV[2], 'fence')
if not at[1] then
    return redis.call('HGET', KEYS[1], ARGV[3])
end
if tonumber(at[2]) > tonumber(ARGV[1]) then
    return 'FENCED'
end
redis.call('HSET', KEYS[1], ARGV[3], at[1])
redis.call('HDEL', KEYS[1], ARGV[2], 'hold')
return at[1]
