-- Retire a partition by moving its position to another field of the checkpoint, or unretire it by moving it back.
--
-- Readers and workers use a partition while the field `position` is there. Its other keys stay as they are. A freeze that
-- a killed process has left ends.
--
-- KEYS  1 the partition's checkpoint
-- ARGV  1 the caller's fence, 2 the field that has the position, 3 the field to move it to
-- Answers the position, or false when there is none; 'FENCED' when the partition has a newer owner.
local at = redis.call('HMGET', KEYS[1], ARGV[2], 'fence')
if not at[1] then
    redis.call('HDEL', KEYS[1], 'frozen')
    return redis.call('HGET', KEYS[1], ARGV[3])
end
if tonumber(at[2]) > tonumber(ARGV[1]) then
    return 'FENCED'
end
redis.call('HSET', KEYS[1], ARGV[3], at[1])
redis.call('HDEL', KEYS[1], ARGV[2], 'frozen')
return at[1]
